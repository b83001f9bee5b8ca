import keras
import numpy as np
import pytest

import keras_cbvit
from keras_cbvit.layers import MultiHeadSelfAttention
from tests.compare import assert_close, dtype_of, to_numpy
from tests.round_trip import round_trip


def brute_force(x, qkv, projection, heads):
    """Output and maps, by query and head, for kernels and biases of the two layers."""
    batch, tokens, channels = x.shape
    size = channels // heads
    query, key, value = np.split(x @ qkv[0] + qkv[1], 3, axis=-1)
    maps = np.zeros((batch, heads, tokens, tokens))
    mixed = np.zeros((batch, tokens, channels))
    for b, h, i in np.ndindex(batch, heads, tokens):
        own = slice(h * size, (h + 1) * size)
        e = np.exp(key[b, :, own] @ query[b, i, own] / np.sqrt(size))
        maps[b, h, i] = e / e.sum()
        mixed[b, i, own] = maps[b, h, i] @ value[b, :, own]
    return mixed @ projection[0] + projection[1], maps


@pytest.fixture
def example():
    """A layer of three heads, its input, and the brute force's output and maps."""
    rng = np.random.default_rng(0)
    layer = MultiHeadSelfAttention(3)
    layer.build((None, None, 12))
    qkv = rng.normal(size=(12, 36), scale=0.5), rng.normal(size=36)
    projection = rng.normal(size=(12, 12), scale=0.5), rng.normal(size=12)
    layer.qkv.set_weights(qkv)
    layer.projection.set_weights(projection)
    x = rng.normal(size=(2, 5, 12))
    return layer, x.astype("float32"), *brute_force(x, qkv, projection, 3)


def test_it_mixes_values_by_scaled_dot_products_within_each_head(example):
    layer, x, output, _ = example
    assert_close(layer(x), output, atol=1e-5)


def test_the_maps_are_the_softmax_and_come_with_the_same_output(example):
    layer, x, output, maps = example
    found, scores = layer(x, return_attention_scores=True)
    assert_close(found, output, atol=1e-5)
    assert_close(scores, maps, atol=1e-6)
    rows = to_numpy(scores).sum(axis=-1)
    assert_close(rows, 1, atol=1e-6)


def test_the_maps_of_a_vit_are_timms(oracle, oracle_arguments, timm_state):
    model = keras_cbvit.ViTCB(broadcast="none", **oracle_arguments)
    keras_cbvit.load_timm_weights(model, timm_state, allow_other_function=True)
    tokens = model.get_layer("token_embedding").output
    embed = keras.Model(model.input, tokens)
    block_inputs = [embed(oracle["images"].astype("float32")), *oracle["plain/blocks"]]
    for i in range(4):
        block = model.get_layer(f"block_{i}")
        x = block.norm1(block_inputs[i])
        _, maps = block.attention(x, return_attention_scores=True)
        assert_close(maps, oracle["plain/attention"][i], atol=1e-5)


def test_the_number_of_tokens_may_be_unknown(example):
    layer, x, output, maps = example
    inputs = keras.Input((None, 12))
    model = keras.Model(inputs, layer(inputs, return_attention_scores=True))
    assert model.output_shape == [(None, None, 12), (None, 3, None, None)]
    found = model.predict(x, verbose=0)
    assert_close(found[0], output, atol=1e-5)
    assert_close(found[1], maps, atol=1e-6)


def test_outputs_and_maps_are_of_the_compute_dtype():
    layer = MultiHeadSelfAttention(2, dtype="mixed_bfloat16")
    x = np.ones((1, 3, 4), "float32")
    for tensor in (layer(x), *layer(x, return_attention_scores=True)):
        assert dtype_of(tensor) == "bfloat16"
    assert layer.qkv.kernel.dtype == "float32"


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match="num_heads=5 does not divide the 12"):
        MultiHeadSelfAttention(5)(np.zeros((1, 2, 12), "float32"))
    with pytest.raises(ValueError, match="num_heads=0 must be a whole number of at le"):
        MultiHeadSelfAttention(0)


def test_every_argument_comes_back_from_the_configuration():
    copy = round_trip(
        MultiHeadSelfAttention,
        num_heads=3,
        qkv_bias=False,
        qk_norm=True,
        epsilon=1e-5,
        name="heads",
        dtype="mixed_bfloat16",
    )
    copy.build((None, None, 12))
    assert copy.qkv.kernel.shape == (12, 36)
    assert copy.key_norm.gamma.shape == (4,)
    assert copy.qkv.dtype_policy.name == "mixed_bfloat16"
