"""Every layer under a float64 policy, against NumPy in float64.

Keras's own `LayerNormalization` and `BatchNormalization` compute in float32 on JAX and
torch, whatever their dtype, so layers with them have its precision.
"""

import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_cbvit import layers
from keras_cbvit.layers.bicubic import bicubic_matrix
from keras_cbvit.layers.token_dense import TokenDense

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.normal(size=(2, 5, 8))
MAP = RANDOM.normal(size=(2, 5, 7, 4))
NEAR = {"rtol": 1e-13, "atol": 1e-14}
COMPILES_LONG = pytest.mark.skipif(
    keras.backend.backend() == "jax",
    reason="JAX compiles for a minute; what these layers are made of is tested.",
)


@pytest.fixture(autouse=True)
def x64():
    """JAX has float64 only if it is asked for."""
    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@np.vectorize
def gelu(x):
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def filled(layer, *shapes):
    """A layer that is built, with random weights."""
    layer.build(*shapes)
    for weight in layer.weights:
        if "seed" not in weight.path:
            weight.assign(RANDOM.uniform(0.1, 0.5, weight.shape))
    return layer


def numbers(tensor):
    assert keras.backend.standardize_dtype(tensor.dtype) == "float64"
    return ops.convert_to_numpy(tensor)


def apply(layer, *inputs, **options):
    """What a layer gives for arrays, or a list of arrays."""
    inputs = keras.tree.map_structure(ops.convert_to_tensor, inputs)

    def call(*inputs):
        return layer(*inputs, **options)

    if keras.backend.backend() == "jax":
        import jax

        call = jax.jit(call)  # else it compiles each operation by itself
    return keras.tree.map_structure(numbers, call(*inputs))


def dense(layer, x):
    kernel, bias = (np.asarray(numbers(weight.value)) for weight in layer.weights)
    return x @ kernel + bias


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def attention(layer, x):
    """Queries, keys and values by head, as timm orders them; without the projection."""
    parts = np.split(dense(layer.qkv, x), 3, axis=-1)
    query, key, value = (
        p.reshape(*p.shape[:2], layer.num_heads, -1).transpose(0, 2, 1, 3)
        for p in parts
    )
    scores = softmax(query @ key.swapaxes(-1, -2) / query.shape[-1] ** 0.5)
    return (scores @ value).transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1), scores


def mlp(layer, x):
    return dense(layer.fc2, gelu(dense(layer.fc1, x)))


def bilinear(old, new):
    """Weights of an axis, for corners that are not aligned."""
    places = (np.arange(new) + 0.5) * old / new - 0.5
    places = np.clip(places, 0, old - 1)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(old)))


def resized(x, rows, columns):
    sides = bilinear(x.shape[1], rows), bilinear(x.shape[2], columns)
    return np.einsum("Hh,Ww,bhwc->bHWc", *sides, x)


def pooled(x, bins):
    """By PyTorch's bins, one by one."""
    sides = [
        [(i * n // bins, -(-(i + 1) * n // bins)) for i in range(bins)]
        for n in x.shape[1:3]
    ]
    means = [[x[:, a:b, c:d].mean((1, 2)) for c, d in sides[1]] for a, b in sides[0]]
    return np.array(means).transpose(2, 0, 1, 3)


def convolved(layer, x):
    """A convolution of stride 1 with zeros around it."""
    kernel = numbers(layer.kernel.value)
    size = kernel.shape[0]
    x = np.pad(x, [(0, 0), *[(size // 2, size // 2)] * 2, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return np.einsum("bhwcij,ijco->bhwo", windows, kernel)


def normalized(layer, x):
    """Batch normalization at inference."""
    gamma, beta, mean, variance = (numbers(weight.value) for weight in layer.weights)
    return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta


def conv_bn_relu(layer, x):
    return np.maximum(normalized(layer.norm, convolved(layer.convolution, x)), 0)


def transposed(layer, x):
    """A transposed convolution of 2x2 and stride 2."""
    kernel, bias = (numbers(weight.value) for weight in layer.weights)
    y = np.einsum("bhwc,ijoc->bhiwjo", x, kernel)
    batch, height, _, width, _, channels = y.shape
    return y.reshape(batch, 2 * height, 2 * width, channels) + bias


def pyramid(layer, x):
    scales = [x]
    for bins, projection in zip((1, 2, 3, 6), layer.projections, strict=True):
        scales.append(resized(conv_bn_relu(projection, pooled(x, bins)), *x.shape[1:3]))
    return conv_bn_relu(layer.fusion, np.concatenate(scales, axis=-1))


def fcn(layer, x):
    x = conv_bn_relu(layer.convolution, x)
    return convolved(layer.classifier, x) + numbers(layer.classifier.bias.value)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("context", ["mean", "max", "token"])
@pytest.mark.parametrize("scale", [False, True])
def test_context_broadcast(scale, context, masked):
    layer = layers.ContextBroadcast(scale, context, dtype="float64")
    filled(layer, TOKENS.shape)
    counting = TOKENS[:, :3] if masked else TOKENS
    common = {
        "mean": counting.mean(axis=1, keepdims=True),
        "max": counting.max(axis=1, keepdims=True),
        "token": TOKENS[:, :1],
    }[context]
    if scale:
        expected = TOKENS + numbers(layer.channel_scale.value) * common
    else:
        expected = 0.5 * TOKENS + 0.5 * common
    mask = np.tile([True, True, True, False, False], (2, 1))
    expected = np.where(mask[..., None], expected, TOKENS) if masked else expected
    found = apply(layer, TOKENS, **({"mask": mask} if masked else {}))
    np.testing.assert_allclose(found, expected, **NEAR)


def test_context_broadcast_of_an_example_by_hand():
    layer = layers.ContextBroadcast(dtype="float64")
    # A third is not what float32 has.
    np.testing.assert_allclose(
        apply(layer, np.array([[[1 / 3], [0.1]]])),
        [[[0.5 / 3 + 0.25 * (1 / 3 + 0.1)], [0.05 + 0.25 * (1 / 3 + 0.1)]]],
        rtol=1e-15,
    )


@pytest.mark.parametrize("shape", [(8,), (5, 8), (3, 5, 8)])
def test_dense_and_mlp(shape):
    x = RANDOM.normal(size=(2, *shape))
    layer = filled(TokenDense(3, dtype="float64"), x.shape)
    np.testing.assert_allclose(apply(layer, x), dense(layer, x), **NEAR)
    layer = filled(layers.MLP(6, dtype="float64"), x.shape)
    np.testing.assert_allclose(apply(layer, x), mlp(layer, x), **NEAR)


@pytest.mark.parametrize("training", [False, True])
def test_attention(training):
    layer = filled(layers.MultiHeadSelfAttention(2, dtype="float64"), TOKENS.shape)
    x, scores = attention(layer, TOKENS)
    expected = dense(layer.projection, x)
    found = apply(layer, TOKENS, training=training)
    np.testing.assert_allclose(found, expected, **NEAR)
    both = apply(layer, TOKENS, return_attention_scores=True)
    for one, other in zip(both, (expected, scores), strict=True):
        np.testing.assert_allclose(one, other, **NEAR)


def test_attention_with_a_uniform_head():
    layer = layers.UniformHeadSelfAttention(2, 3, dtype="float64")
    filled(layer, TOKENS.shape)
    x, _ = attention(layer, TOKENS)
    mean = dense(layer.uniform_value, TOKENS.mean(axis=1, keepdims=True))
    x = np.concatenate([x, np.repeat(mean, 5, axis=1)], axis=-1)
    found = apply(layer, TOKENS)
    np.testing.assert_allclose(found, dense(layer.projection, x), **NEAR)


def test_encoder_block_and_residual():
    end = layers.ContextBroadcast(dtype="float64")
    block = layers.EncoderBlock(2, 12, mlp_end=end, dtype="float64")
    filled(block, TOKENS.shape)
    branch, _ = attention(block.attention, apply(block.norm1, TOKENS))
    x = TOKENS + dense(block.attention.projection, branch)
    hidden = mlp(block.mlp, apply(block.norm2, x))
    expected = x + 0.5 * hidden + 0.5 * hidden.mean(axis=1, keepdims=True)
    # The norms, of float32, are given inputs that differ in the last digits.
    np.testing.assert_allclose(apply(block, TOKENS), expected, rtol=0, atol=1e-6)
    layer = layers.Residual(layers.MLP(6, dtype="float64"), dtype="float64")
    filled(layer, TOKENS.shape)
    expected = TOKENS + mlp(layer.branch, apply(layer.norm, TOKENS))
    np.testing.assert_allclose(apply(layer, TOKENS), expected, **NEAR)


def test_squeeze_excitation():
    layer = filled(layers.SqueezeExcitation(2, dtype="float64"), TOKENS.shape)
    gate = dense(layer.fc2, np.maximum(dense(layer.fc1, TOKENS.mean(axis=1)), 0))
    expected = TOKENS / (1 + np.exp(-gate[:, None]))
    np.testing.assert_allclose(apply(layer, TOKENS), expected, **NEAR)


def test_drop_path():
    layer = layers.DropPath(0.3, seed=0, dtype="float64")
    x = RANDOM.normal(size=(64, 3))
    found = apply(layer, x, training=True)
    kept = (found != 0).any(axis=1)
    assert 0 < kept.sum() < 64
    np.testing.assert_allclose(found[kept], x[kept] / 0.7, rtol=1e-15)


def test_patches_and_tokens():
    images = RANDOM.normal(size=(2, 6, 4, 3))
    layer = filled(layers.PatchEmbedding(2, 5, dtype="float64"), images.shape)
    patches = images.reshape(2, 3, 2, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    expected = dense(layer.projection, patches.reshape(2, 6, 12))
    np.testing.assert_allclose(apply(layer, images), expected, **NEAR)

    layer = layers.TokenEmbedding(2, (1, 5), 2, dtype="float64")
    images = np.zeros((2, 2, 10, 3))
    filled(layer, TOKENS.shape, images.shape)
    *prefix, position = (numbers(weight.value) for weight in layer.weights)
    prefix = np.repeat(np.concatenate(prefix, axis=1), 2, axis=0)
    tokens = np.concatenate([prefix, TOKENS], axis=1)
    np.testing.assert_allclose(apply(layer, TOKENS, images), tokens + position, **NEAR)

    for pooling, expected in (
        ("token", TOKENS[:, 0]),
        ("avg", TOKENS[:, 1:].mean(axis=1)),
    ):
        found = apply(layers.TokenPooling(pooling, dtype="float64"), TOKENS)
        np.testing.assert_allclose(found, expected, **NEAR)
    found = apply(layers.TokenMap(2, dtype="float64"), TOKENS, np.zeros((2, 4, 4, 3)))
    np.testing.assert_array_equal(found, TOKENS[:, 1:].reshape(2, 2, 2, 8))

    layer = filled(layers.LayerScale(dtype="float64"), TOKENS.shape)
    expected = numbers(layer.gamma.value) * TOKENS
    np.testing.assert_allclose(apply(layer, TOKENS), expected, **NEAR)


@pytest.mark.parametrize("grid", [(2, 2), (3, 5), (1, 4), (6, 1)])
def test_resampled_position(grid):
    tokens = RANDOM.normal(size=(2, grid[0] * grid[1], 8))
    images = np.zeros((2, 2 * grid[0], 2 * grid[1], 3))
    layer = layers.TokenEmbedding(2, (2, 2), dtype="float64")
    filled(layer, tokens.shape, images.shape)
    token, position = (numbers(weight.value) for weight in layer.weights)
    sides = [bicubic_matrix(2, side) for side in grid]
    patches = position[0, 1:].reshape(2, 2, 8)
    patches = np.einsum("Rr,Cc,rcd->RCd", *sides, patches).reshape(1, -1, 8)
    position = np.concatenate([position[:, :1], patches], axis=1)
    tokens_after = np.concatenate([np.repeat(token, 2, axis=0), tokens], axis=1)
    expected = tokens_after + position
    np.testing.assert_allclose(apply(layer, tokens, images), expected, **NEAR)


@pytest.mark.parametrize("size", [(10, 14), (9, 3), (5, 7), (1, 20)])
def test_resize(size):
    layer = layers.ResizeLike(dtype="float64")
    found = apply(layer, MAP, np.zeros((2, *size, 1)))
    np.testing.assert_allclose(found, resized(MAP, *size), **NEAR)


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_adaptive_average_pooling(bins):
    layer = layers.AdaptiveAveragePooling(bins, dtype="float64")
    np.testing.assert_allclose(apply(layer, MAP), pooled(MAP, bins), **NEAR)


@COMPILES_LONG
def test_layers_of_segmentation():
    for layer, expected in (
        (layers.ConvBNReLU(6, 3, dtype="float64"), conv_bn_relu),
        (layers.FCNHead(3, 6, dtype="float64"), fcn),
        (layers.PyramidPooling(6, dtype="float64"), pyramid),
    ):
        filled(layer, MAP.shape)
        np.testing.assert_allclose(
            apply(layer, MAP), expected(layer, MAP), rtol=0, atol=1e-5
        )


def test_feature_scales():
    maps = [RANDOM.normal(size=(2, 4, 6, 3)) for _ in range(4)]
    layer = layers.FeatureScales(dtype="float64")
    filled(layer, [x.shape for x in maps])
    finest = gelu(normalized(layer.norm, transposed(layer.up4_first, maps[0])))
    halved = maps[3].reshape(2, 2, 2, 3, 2, 3).max(axis=(2, 4))
    expected = [
        transposed(layer.up4_second, finest),
        transposed(layer.up2, maps[1]),
        maps[2],
        halved,
    ]
    found = apply(layer, maps)
    for one, other, atol in zip(found, expected, (1e-6, 1e-14, 0, 0), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=atol)


@COMPILES_LONG
def test_uper_head():
    maps = [RANDOM.normal(size=(2, 8 // 2**i, 12 // 2**i, 3)) for i in range(2)]
    layer = layers.UperHead(2, 4, dtype="float64")
    filled(layer, [x.shape for x in maps])
    top = pyramid(layer.pyramid_pooling, maps[1])
    lateral = conv_bn_relu(layer.lateral_convolutions[0], maps[0]) + resized(top, 8, 12)
    fine = conv_bn_relu(layer.output_convolutions[0], lateral)
    fused = np.concatenate([fine, resized(top, 8, 12)], axis=-1)
    expected = fcn(layer.head, fused)
    np.testing.assert_allclose(apply(layer, maps), expected, rtol=1e-5, atol=1e-5)
