import keras
import numpy as np
import pytest

from keras_cbvit.layers import (
    ContextBroadcast,
    EncoderBlock,
    UniformHeadSelfAttention,
)
from tests.compare import assert_close, dtype_of, to_numpy
from tests.round_trip import round_trip

X = np.random.default_rng(0).normal(size=(64, 3, 8)).astype("float32")


def silent(**arguments):
    """A block whose branches are the biases of their last layers: 2 and 3."""
    block = EncoderBlock(2, 16, **arguments)
    block.build(X.shape)
    block.attention.projection.bias.assign(np.full(8, 2.0))
    block.attention.projection.kernel.assign(np.zeros((8, 8)))
    block.mlp.fc2.bias.assign(np.full(8, 3.0))
    block.mlp.fc2.kernel.assign(np.zeros((16, 8)))
    return block


def test_both_branches_are_added_to_their_input():
    assert_close(silent()(X), X + 2 + 3, atol=1e-6)


@pytest.mark.parametrize(
    "place, added",
    [("msa_end", 10 * 2 + 3), ("mlp_mid", 2 + 3), ("mlp_end", 2 + 10 * 3)],
)
def test_a_layer_at_the_end_of_a_branch_is_not_on_the_residual_path(place, added):
    block = silent(**{place: keras.layers.Rescaling(10.0)})
    assert_close(block(X), X + added, atol=1e-5)


def test_each_branch_is_dropped_for_samples_of_its_own():
    block = silent(drop_path_rate=0.5)
    added = to_numpy(block(X, training=True)) - X
    assert (np.abs(added - added[:, :1, :1]) < 1e-5).all()
    assert set(added[:, 0, 0].round(3)) == {0, 2 * 2, 2 * 3, 2 * 2 + 2 * 3}
    assert_close(block(X, training=False), X + 2 + 3, atol=1e-6)


def test_norms_have_the_epsilon_of_vits():
    block = EncoderBlock(2, 16)
    block.build(X.shape)
    assert (block.norm1.epsilon, block.norm2.epsilon) == (1e-6, 1e-6)


def test_its_layers_share_its_dtype_policy():
    block = EncoderBlock(2, 16, drop_path_rate=0.1, dtype="mixed_bfloat16")
    y = block(X)
    assert dtype_of(y) == "bfloat16"
    policies = {layer.dtype_policy.name for layer in block._flatten_layers()}
    assert policies == {"mixed_bfloat16"}


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match="num_heads=3 does not divide the 8 channels"):
        EncoderBlock(3, 16)(X)


def test_every_argument_comes_back_from_the_configuration():
    copy = round_trip(
        EncoderBlock,
        num_heads=2,
        mlp_dim=16,
        drop_path_rate=0.25,
        remat=True,
        attention=UniformHeadSelfAttention(1, 5, name="heads"),
        msa_end=ContextBroadcast(name="at_msa_end"),
        mlp_front=ContextBroadcast(name="at_mlp_front", context="max"),
        mlp_mid=ContextBroadcast(name="at_mlp_mid", scale=True),
        mlp_end=keras.layers.Rescaling(2.0, name="at_mlp_end"),
        name="block",
        dtype="mixed_bfloat16",
    )
    places = (copy.msa_end, copy.mlp.front, copy.mlp.mid, copy.mlp.end)
    assert [layer.name for layer in places] == [
        "at_msa_end",
        "at_mlp_front",
        "at_mlp_mid",
        "at_mlp_end",
    ]
    assert (copy.mlp.front.context, copy.mlp.mid.scale) == ("max", True)
    assert copy.remat
    assert (copy.attention.name, copy.attention.head_dim) == ("heads", 5)
    assert (copy.drop_path1.rate, copy.drop_path2.rate) == (0.25, 0.25)
    assert copy(X).shape == X.shape


def test_a_built_block_comes_back():
    block = EncoderBlock(2, 16, attention=UniformHeadSelfAttention(1, 5))
    block.build(X.shape)
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(block)
    )
    assert copy(X).shape == X.shape
    assert copy.count_params() == block.count_params()
