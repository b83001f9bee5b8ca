import numpy as np
import pytest

from keras_cbvit.layers import UniformHeadSelfAttention
from tests.compare import assert_close, dtype_of
from tests.layers.test_multi_head_self_attention import brute_force
from tests.round_trip import round_trip


@pytest.fixture
def example():
    """A layer of two softmax heads of 4 channels, its input, output and maps."""
    rng = np.random.default_rng(0)
    layer = UniformHeadSelfAttention(2, 4)
    layer.build((None, None, 6))
    qkv = rng.normal(size=(6, 24), scale=0.5), rng.normal(size=24)
    value = rng.normal(size=(6, 4), scale=0.5), rng.normal(size=4)
    projection = rng.normal(size=(12, 6), scale=0.5), rng.normal(size=6)
    for part, weights in (
        (layer.qkv, qkv),
        (layer.uniform_value, value),
        (layer.projection, projection),
    ):
        part.set_weights(weights)
    x = rng.normal(size=(2, 5, 6))
    # The softmax heads by themselves, in 8 channels that nothing projects.
    padded_x = np.pad(x, ((0, 0), (0, 0), (0, 2)))
    padded_qkv = np.pad(qkv[0], ((0, 2), (0, 0))), qkv[1]
    heads, maps = brute_force(padded_x, padded_qkv, (np.eye(8), np.zeros(8)), 2)
    uniform = (x @ value[0] + value[1]).mean(axis=1, keepdims=True)
    mixed = np.concatenate([heads, np.repeat(uniform, 5, axis=1)], axis=-1)
    maps = np.concatenate([maps, np.full((2, 1, 5, 5), 1 / 5)], axis=1)
    return layer, x.astype("float32"), mixed @ projection[0] + projection[1], maps


@pytest.mark.parametrize("training", [False, True])
def test_the_last_head_gives_every_token_the_mean_value(example, training):
    layer, x, output, _ = example
    assert_close(layer(x, training=training), output, atol=1e-5)


def test_the_maps_end_with_the_uniform_one(example):
    layer, x, output, maps = example
    found, scores = layer(x, return_attention_scores=True)
    assert_close(found, output, atol=1e-5)
    assert_close(scores, maps, atol=1e-6)


def test_outputs_and_maps_are_of_the_compute_dtype():
    layer = UniformHeadSelfAttention(1, 3, dtype="mixed_bfloat16")
    x = np.ones((1, 3, 4), "float32")
    for tensor in (layer(x), *layer(x, return_attention_scores=True)):
        assert dtype_of(tensor) == "bfloat16"


@pytest.mark.parametrize("arguments, named", [((0, 4), "num_heads"), ((2, 0), "head")])
def test_no_heads_or_channels_are_refused(arguments, named):
    with pytest.raises(ValueError, match=f"{named}.*=0 must be a whole number"):
        UniformHeadSelfAttention(*arguments)


def test_every_argument_comes_back_from_the_configuration():
    copy = round_trip(
        UniformHeadSelfAttention,
        num_heads=3,
        head_dim=5,
        name="heads",
        dtype="mixed_bfloat16",
    )
    copy.build((None, None, 12))
    assert copy.qkv.kernel.shape == (12, 45)
    assert copy.projection.kernel.shape == (20, 12)
