"""The kinds of Vision Transformers elsewhere, against NumPy; tests/peers has their own.

Each part is written down here once more, in float64.
"""

import math

import keras
import numpy as np
import pytest

import keras_cbvit
from keras_cbvit import backend
from keras_cbvit.layers import MLP, MultiHeadSelfAttention, TokenEmbedding, TokenPooling
from tests.compare import assert_close, to_numpy
from tests.tiny import first_on_each_backend, predict, tiny

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.normal(size=(2, 5, 8))


def randomize(layer):
    """Gives every weight random numbers, norms and biases included."""
    for weight in layer.weights:
        weight.assign(RANDOM.normal(0.5, 0.5, size=weight.shape))


def named(layer):
    """The weights by the end of their path."""
    return {"/".join(w.path.split("/")[-2:]): to_numpy(w) for w in layer.weights}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def norm(x, gamma, beta, epsilon):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * gamma + beta


ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / 2**0.5)),
    "gelu_tanh": lambda x: (
        0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
    ),
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "swiglu": lambda x: x[..., :6] * sigmoid(x[..., :6]) * x[..., 6:],
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_mlp_has_its_activation(activation):
    layer = MLP(6, activation=activation)
    layer.build(TOKENS.shape)
    randomize(layer)
    weights = named(layer)
    x = TOKENS @ weights["fc1/kernel"] + weights["fc1/bias"]
    x = ACTIVATIONS[activation](x) @ weights["fc2/kernel"] + weights["fc2/bias"]
    assert_close(layer(TOKENS.astype("float32")), x, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_is_accurate_in_bfloat16(activation):
    """It is computed in float32 where the backend's own is not accurate."""
    x = keras.ops.convert_to_tensor(np.linspace(-4, 4, 24).reshape(2, 12), "bfloat16")
    exact = ACTIVATIONS[activation](to_numpy(x).astype("float64"))
    assert_close(getattr(backend, activation)(x), exact, atol=4e-2)


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_attention_with_and_without_bias_and_norms(qkv_bias, qk_norm):
    layer = MultiHeadSelfAttention(2, qkv_bias, qk_norm, epsilon=1e-3)
    layer.build(TOKENS.shape)
    randomize(layer)
    weights = named(layer)
    assert ("qkv/bias" in weights) == qkv_bias
    qkv = TOKENS @ weights["qkv/kernel"] + weights.get("qkv/bias", 0)
    q, k, v = qkv.reshape(2, 5, 3, 2, 4).transpose(2, 0, 3, 1, 4)
    if qk_norm:
        q, k = (
            norm(x, weights[f"{name}/gamma"], weights[f"{name}/beta"], 1e-3)
            for x, name in ((q, "query_norm"), (k, "key_norm"))
        )
    scores = np.exp(q @ k.swapaxes(-1, -2) / 2)
    scores /= scores.sum(-1, keepdims=True)
    x = (scores @ v).transpose(0, 2, 1, 3).reshape(2, 5, 8)
    x = x @ weights["projection/kernel"] + weights["projection/bias"]
    inputs = TOKENS.astype("float32")
    assert_close(layer(inputs), x, atol=1e-5)
    assert_close(layer(inputs, training=True), x, atol=1e-5)
    found, maps = layer(inputs, return_attention_scores=True)
    assert_close(found, x, atol=1e-5)
    assert_close(maps, scores, atol=1e-5)
    copy = MultiHeadSelfAttention.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()


def test_prefix_tokens_come_in_order():
    layer = TokenEmbedding(2, (1, 2), 2, distillation_token=True)
    images = np.zeros((1, 2, 4, 3), "float32")
    layer.build((1, 2, 1), images.shape)
    layer.class_token.assign([[[1]]])
    layer.distillation_token.assign([[[2]]])
    layer.register_tokens.assign([[[3], [4]]])
    layer.position_embedding.assign(np.reshape([10, 20, 30, 40, 50, 60], (1, 6, 1)))
    found = layer(np.float32([[[5], [6]]]), images)
    assert_close(found[0, :, 0], [11, 22, 33, 44, 55, 66])
    names = [w.path.rpartition("/")[2] for w in layer.weights]
    assert names == [
        "class_token",
        "distillation_token",
        "register_tokens",
        "position_embedding",
    ]


def test_without_prefix_tokens_the_position_embedding_is_all():
    layer = TokenEmbedding(2, (1, 2), class_token=False)
    images = np.zeros((1, 2, 4, 3), "float32")
    layer.build((1, 2, 1), images.shape)
    layer.position_embedding.assign([[[10], [20]]])
    assert_close(layer(np.float32([[[5], [6]]]), images)[0, :, 0], [15, 26])
    larger = layer(np.zeros((1, 4, 1), "float32"), np.zeros((1, 2, 8, 3), "float32"))
    assert larger.shape == (1, 4, 1)


@pytest.mark.parametrize(
    "pooling, expected",
    [
        ("token", [1, 10]),
        ("distillation", [2, 20]),
        ("distilled", [1.5, 15]),
        ("avg", [5, 50]),
        ("token_avg", [1, 10, 5, 50]),
    ],
)
def test_pooling(pooling, expected):
    tokens = np.float32([[[1, 10], [2, 20], [4, 40], [6, 60]]])
    layer = TokenPooling(pooling, num_prefix_tokens=2)
    assert_close(layer(tokens), [expected])
    assert layer.compute_output_shape(tokens.shape) == (1, len(expected))


def features(model):
    """Of one image: what comes before and after the last norm, and the model's."""
    images = np.full((1, *model.input_shape[1:]), 100, "float32")
    images[:, ::2] = 20
    outputs = [model.blocks[-1].output, model.get_layer("norm").output, model.output]
    return map(to_numpy, keras.Model(model.input, outputs)(images))


def test_fc_norm_is_after_the_pooling():
    model = tiny(pooling="avg", fc_norm=True, classifier_activation=None)
    randomize(model)
    tokens, normalized, logits = features(model)
    weights = model.weights_by_name()
    gamma, beta = (to_numpy(weights[f"norm/{name}"]) for name in ("gamma", "beta"))
    expected = norm(tokens[:, 1:].mean(1), gamma, beta, model.spec.epsilon)
    assert_close(normalized, expected, atol=1e-4)
    kernel, bias = (to_numpy(weights[f"head/{name}"]) for name in ("kernel", "bias"))
    assert_close(logits, expected @ kernel + bias, atol=1e-3)


def test_distilled_predictions_are_the_mean_of_two_heads():
    options = {"distillation_token": True, "pooling": "distilled"}
    model = tiny(**options, classifier_activation=None)
    randomize(model)
    _, tokens, logits = features(model)
    weights = {name: to_numpy(w) for name, w in model.weights_by_name().items()}
    expected = (
        tokens[:, 0] @ weights["head/kernel"]
        + weights["head/bias"]
        + tokens[:, 1] @ weights["distillation_head/kernel"]
        + weights["distillation_head/bias"]
    ) / 2
    assert_close(logits, expected, atol=1e-3)
    without = tiny(**options, include_top=False, classes=None)
    for name, weight in without.weights_by_name().items():
        weight.assign(weights[name])
    _, tokens, pooled = features(without)
    assert_close(pooled, tokens[:, :2].mean(1), atol=1e-5)


def test_pre_norm_is_before_the_first_block():
    model = tiny(pre_norm=True)
    randomize(model)
    images = np.full((1, *model.input_shape[1:]), 100, "float32")
    names = ("token_embedding", "pre_norm")
    outputs = [model.get_layer(name).output for name in names]
    tokens, found = map(to_numpy, keras.Model(model.input, outputs)(images))
    weights = model.weights_by_name()
    gamma, beta = (to_numpy(weights[f"pre_norm/{name}"]) for name in ("gamma", "beta"))
    assert_close(found, norm(tokens, gamma, beta, model.spec.epsilon), atol=1e-4)
    assert model.blocks[0].input is model.get_layer("pre_norm").output


@pytest.mark.parametrize("channels", [1, 4])
def test_every_channel_is_normalized_by_its_own_numbers(channels):
    shape = tiny().input_shape[1:3]
    mean, std = (0.5, 0.25, 0.1, 0.9)[:channels], (0.5, 1, 0.2, 0.1)[:channels]
    model = tiny(input_shape=(*shape, channels), mean=mean, std=std)
    plain = tiny(input_shape=(*shape, channels), include_preprocessing=False)
    plain.set_weights(model.get_weights())
    images = np.random.default_rng(1).uniform(0, 255, (2, *shape, channels))
    normalized = (images / 255 - mean) / std
    assert_close(predict(model, images), predict(plain, normalized), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    first_on_each_backend(
        [
            {"class_token": False, "pooling": "avg", "fc_norm": True},
            {"distillation_token": True, "pooling": "distilled"},
            {"pooling": "token_avg", "pre_norm": True, "activation": "quick_gelu"},
            {"qk_norm": True, "qkv_bias": False, "activation": "swiglu"},
        ]
    ),
)
def test_a_file_keeps_every_kind(options, tmp_path):
    model = tiny(**options)
    randomize(model)
    model.save(tmp_path / "kind.keras")
    expected = predict(model)
    again = keras_cbvit.load_model(tmp_path / "kind.keras")
    assert again.spec == model.spec
    assert_close(predict(again), expected)
    assert_close(predict(keras_cbvit.ViTCB(weights=tmp_path / "kind.keras")), expected)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"class_token": False}, "pooling='token' requires a class token"),
        (
            {"class_token": False, "distillation_token": True},
            "distillation_token=True requires a class token",
        ),
        (
            {"class_token": False, "pooling": "avg", "context": "token"},
            "context='token' requires a class token",
        ),
        ({"pooling": "distilled"}, "pooling='distilled' requires distillation_token"),
        (
            {"pooling": "token_avg", "fc_norm": True},
            "fc_norm=True cannot be used with pooling='token_avg'",
        ),
        (
            {"uniform_head": "attached", "qk_norm": True},
            "uniform_head='attached' requires",
        ),
        (
            {"input_shape": (8, 8, 1)},
            "mean=(0.485, 0.456, 0.406) must have one number per channel",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(options, sentence):
    with pytest.raises(ValueError) as error:
        tiny(**options)
    assert str(error.value).startswith(sentence)
