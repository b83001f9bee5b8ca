import math

import keras
import numpy as np
import pytest

from keras_cbvit.layers import (
    ContextBroadcast,
    EncoderBlock,
    LayerScale,
    SqueezeExcitation,
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


@pytest.mark.parametrize("place", ["msa_end", "mlp_end"])
def test_layers_at_a_place_run_in_their_order(place):
    layers = [keras.layers.Rescaling(10.0), keras.layers.Rescaling(1.0, offset=1.0)]
    before = {"msa_end": 2, "mlp_end": 3}[place]
    for order, after in (
        (layers, 10 * before + 1),
        (layers[::-1], 10 * (before + 1)),
        (tuple(layers), 10 * before + 1),
    ):
        block = silent(**{place: order})
        assert_close(block(X), X + 2 + 3 - before + after, atol=1e-5)


def by_numpy(block, x):
    """A block of CB, squeeze-and-excitation and LayerScale, by NumPy in float64."""

    def weights(layer):
        return [w.numpy().astype("float64") for w in layer.weights]

    def dense(layer, x):
        kernel, bias = weights(layer)
        return x @ kernel + bias

    def norm(layer, x):
        gamma, beta = weights(layer)
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return gamma * (x - mean) / np.sqrt(variance + layer.epsilon) + beta

    def broadcast(layer, x):
        context = x.mean(axis=1, keepdims=True)
        return x + weights(layer)[0] * context if layer.scale else (x + context) / 2

    def attention(layer, x):
        query, key, value = (
            part.reshape(*x.shape[:2], 2, 4).transpose(0, 2, 1, 3)
            for part in np.split(dense(layer.qkv, x), 3, axis=-1)
        )
        maps = np.exp(query @ key.swapaxes(-1, -2) / 2)
        maps /= maps.sum(-1, keepdims=True)
        mixed = (maps @ value).transpose(0, 2, 1, 3).reshape(x.shape)
        return dense(layer.projection, mixed)

    def mlp(layer, x):
        x = dense(layer.fc1, x)
        x = x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
        return dense(layer.fc2, x)

    def gated(layer, x):
        hidden = np.maximum(dense(layer.fc1, x.mean(axis=1)), 0)
        return x / (1 + np.exp(-dense(layer.fc2, hidden)))[:, None]

    x = x.astype("float64")
    cb, scale = block.msa_end
    y = broadcast(cb, attention(block.attention, norm(block.norm1, x)))
    x = x + weights(scale)[0] * y
    cb, excitation, scale = block.mlp.end
    y = gated(excitation, broadcast(cb, mlp(block.mlp, norm(block.norm2, x))))
    return x + weights(scale)[0] * y


@pytest.mark.parametrize("scale", [False, True])
def test_cb_squeeze_and_excitation_and_layer_scale_stack(scale):
    block = EncoderBlock(
        2,
        16,
        epsilon=1e-2,
        msa_end=[ContextBroadcast(scale), LayerScale()],
        mlp_end=[ContextBroadcast(scale), SqueezeExcitation(2), LayerScale()],
    )
    block.build(X.shape)
    rng = np.random.default_rng(0)
    for weight in block.weights:
        weight.assign(rng.normal(size=weight.shape, scale=0.5))
    assert_close(block(X[:4]), by_numpy(block, X[:4]), atol=1e-5)


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
        epsilon=1e-5,
        msa_end=ContextBroadcast(name="at_msa_end"),
        mlp_front=ContextBroadcast(name="at_mlp_front", context="max"),
        mlp_mid=ContextBroadcast(name="at_mlp_mid", scale=True),
        mlp_end=[
            keras.layers.Rescaling(2.0, name="at_mlp_end"),
            LayerScale(0.5, name="after_it"),
        ],
        activation="quick_gelu",
        name="block",
        dtype="mixed_bfloat16",
    )
    assert copy.mlp.activation == "quick_gelu"
    places = (copy.msa_end, copy.mlp.front, copy.mlp.mid, copy.mlp.end)
    assert [[layer.name for layer in layers] for layers in places] == [
        ["at_msa_end"],
        ["at_mlp_front"],
        ["at_mlp_mid"],
        ["at_mlp_end", "after_it"],
    ]
    assert (copy.mlp.front[0].context, copy.mlp.mid[0].scale) == ("max", True)
    assert copy.mlp.end[1].initial_value == 0.5
    assert (copy.norm1.epsilon, copy.norm2.epsilon) == (1e-5, 1e-5)
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
