"""CB in models of plain Keras layers; `tests/peers` has those of other packages."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cbvit
from tests.tiny import first_on_each_backend

CHANNELS = 6


@keras.saving.register_keras_serializable(package="tests")
class Block(keras.layers.Layer):
    """A residual branch whose parts are not in the graph, as in KerasHub."""

    def build(self, input_shape):
        self.steps = [
            keras.layers.Dense(8, name="fc1"),
            keras.layers.Dense(input_shape[-1], name="fc2"),
        ]
        for step, channels in zip(self.steps, (input_shape[-1], 8), strict=True):
            step.build((*input_shape[:-1], channels))
        self.attention = keras.layers.MultiHeadAttention(2, 3, name="attention")
        self.attention.build(input_shape, input_shape)
        self.weigher = keras.layers.Dense(1, name="weigher")
        self.weigher.build(input_shape)

    def call(self, inputs):
        x = inputs + self.attention(inputs, inputs, use_causal_mask=True)
        x = x * ops.sum(self.weigher.weights[0])
        return x + self.steps[1](self.steps[0](x))

    def compute_output_shape(self, input_shape):
        return input_shape


def model_of(layers, shape=(5, CHANNELS)):
    inputs = keras.Input(shape, name="tokens")
    outputs = inputs
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs, name="user")


def dense(name):
    return keras.layers.Dense(CHANNELS, name=name)


def nested():
    return model_of([dense("fc1"), model_of([dense("fc2"), Block(name="block")])])


MODELS = {
    "nodes": (lambda: model_of([dense("fc1"), dense("fc2")]), ["fc2"], 1),
    "every node": (lambda: model_of([dense("fc1"), dense("fc2")]), "fc*", 2),
    "parts in a list": (lambda: model_of([Block(name="block")]), "*/fc2", 1),
    "parts of two inputs": (lambda: model_of([Block(name="a")]), "a/attention", 1),
    "a nested model": (nested, ["user/fc2", "user/block/fc2"], 2),
    "a nested model itself": (nested, "user", 1),
    "a part and what it is in": (nested, ["*/block", "*/block/fc2"], 2),
    "sequential": (
        lambda: keras.Sequential(
            [keras.Input((5, CHANNELS)), dense("fc1"), Block(name="block")]
        ),
        ["fc1", "block/fc2"],
        2,
    ),
    "sequential in a model": (
        lambda: model_of([keras.Sequential([dense("fc1"), dense("fc2")], name="mlp")]),
        ["mlp/fc2", "mlp"],
        2,
    ),
}


@pytest.fixture
def tokens(rng):
    return rng.standard_normal((3, 5, CHANNELS), "float32")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


def set_scales(model, value):
    for layer in keras_cbvit.analysis.scale_layers(model).values():
        layer.channel_scale.assign(np.full(layer.channel_scale.shape, value))


@pytest.mark.parametrize("case", first_on_each_backend(MODELS))
def test_the_copy_predicts_as_the_model_and_is_saved(case, tokens, tmp_path):
    make, after, count = MODELS[case]
    model = make()
    expected = numbers(model(tokens))
    copy = keras_cbvit.insert_context_broadcast(model, after)
    assert len(keras_cbvit.analysis.scale_layers(copy)) == count
    np.testing.assert_array_equal(numbers(copy(tokens)), expected)
    set_scales(copy, 0.5)
    changed = numbers(copy(tokens))
    assert np.abs(changed - expected).max() > 1e-3
    np.testing.assert_array_equal(numbers(model(tokens)), expected)
    copy.save(tmp_path / "copy.keras")
    loaded = keras.models.load_model(tmp_path / "copy.keras")
    np.testing.assert_array_equal(numbers(loaded(tokens)), changed)


@pytest.mark.parametrize("scale", [True, False])
def test_broadcasts_after_each_call_of_a_layer(scale, tokens):
    shared = dense("shared")
    inputs = keras.Input((5, CHANNELS))
    model = keras.Model(inputs, shared(shared(inputs)))
    copy = keras_cbvit.insert_context_broadcast(model, "shared", scale)
    if scale:
        set_scales(copy, 0.5)
    kernel, bias = shared.get_weights()
    x = tokens
    for _ in range(2):
        x = x @ kernel + bias
        mean = x.mean(axis=1, keepdims=True)
        x = x + 0.5 * mean if scale else (x + mean) / 2
    np.testing.assert_allclose(numbers(copy(tokens)), x, atol=1e-5)


def test_broadcasts_within_a_layer(tokens):
    model = model_of([Block(name="block")])
    copy = keras_cbvit.insert_context_broadcast(model, "block/fc2")
    set_scales(copy, 0.5)
    block = model.get_layer("block")
    attended = numbers(block.attention(tokens, tokens, use_causal_mask=True))
    x = (tokens + attended) * block.weigher.get_weights()[0].sum()
    y = numbers(block.steps[1](block.steps[0](x)))
    expected = x + y + 0.5 * y.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(numbers(copy(tokens)), expected, atol=1e-5)


@pytest.mark.slow
def test_learns_to_broadcast_with_everything_else_frozen(tokens):
    model = model_of([Block(name="block"), dense("fc2")])
    for layer in model.layers:
        layer.trainable = False
    expected = numbers(model(tokens))
    copy = keras_cbvit.insert_context_broadcast(model, ["fc2"])
    assert len(copy.trainable_weights) == 1
    copy.compile("sgd", "mse")
    before = numbers(copy.layers[1].steps[0].kernel)
    copy.fit(tokens, np.ones_like(tokens), verbose=0)
    (scale,) = keras_cbvit.analysis.channel_scales(copy).values()
    assert np.abs(scale).min() > 0
    np.testing.assert_array_equal(numbers(copy.layers[1].steps[0].kernel), before)
    np.testing.assert_array_equal(numbers(model(tokens)), expected)


def test_what_is_frozen_stays_so_and_in_the_file(tmp_path):
    model = model_of([Block(name="block"), dense("fc1"), dense("fc2")])
    model.get_layer("fc1").trainable = False
    model.get_layer("block").attention.trainable = False
    copy = keras_cbvit.insert_context_broadcast(model, "fc2")
    assert [each.path for each in copy.non_trainable_weights] == [
        each.path for each in model.non_trainable_weights
    ]
    copy.get_layer("fc1").trainable = True
    copy.get_layer("fc2").layer.trainable = False
    copy.save(tmp_path / "copy.keras")
    loaded = keras.models.load_model(tmp_path / "copy.keras")
    trained = [each.path for each in loaded.trainable_weights]
    assert trained == [each.path for each in copy.trainable_weights]
    assert "fc1/kernel" in trained
    assert "fc2/context_broadcast/scale" in trained
    assert "fc2/kernel" not in trained


def test_outputs_of_layers_belong_to_the_copy(tokens, tmp_path):
    model = model_of([dense("fc1"), dense("fc2")])
    copy = keras_cbvit.insert_context_broadcast(model, "fc1", name="copy")
    assert copy.name == "copy"
    assert not copy.compiled
    features = keras.Model(copy.input, copy.get_layer("fc1").output)
    set_scales(copy, 1)
    y = numbers(model.get_layer("fc1")(tokens))
    expected = y + y.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(numbers(features(tokens)), expected, atol=1e-5)
    features.save(tmp_path / "features.keras")
    loaded = keras.models.load_model(tmp_path / "features.keras")
    np.testing.assert_allclose(numbers(loaded(tokens)), expected, atol=1e-5)


def test_inputs_and_outputs_by_name(tokens):
    inputs = {name: keras.Input((5, CHANNELS), name=name) for name in ("a", "b")}
    x = keras.layers.Add(name="add")(list(inputs.values()))
    model = keras.Model(inputs, {"sum": x, "dense": dense("fc1")(x)})
    copy = keras_cbvit.insert_context_broadcast(model, "add")
    set_scales(copy, 1)
    found = copy({"a": tokens, "b": tokens})
    expected = 2 * tokens + 2 * tokens.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(numbers(found["sum"]), expected, atol=1e-5)
    assert found.keys() == {"sum", "dense"}


def test_computes_in_the_dtype_of_the_layer(tokens):
    layer = keras.layers.Dense(CHANNELS, name="fc1", dtype="mixed_bfloat16")
    copy = keras_cbvit.insert_context_broadcast(model_of([layer]), "fc1")
    assert keras.backend.standardize_dtype(copy(tokens).dtype) == "bfloat16"
    (found,) = keras_cbvit.analysis.scale_layers(copy).values()
    assert found.channel_scale.dtype == "float32"


@pytest.mark.any_backend
def test_inserts_into_a_copy(tokens, tmp_path):
    model = model_of([dense("fc1"), Block(name="block")])
    first = keras_cbvit.insert_context_broadcast(model, "fc1")
    set_scales(first, 0.5)
    second = keras_cbvit.insert_context_broadcast(first, "block/fc2")
    assert len(keras_cbvit.analysis.scale_layers(second)) == 2
    np.testing.assert_array_equal(numbers(second(tokens)), numbers(first(tokens)))
    second.save(tmp_path / "copy.keras")
    loaded = keras.models.load_model(tmp_path / "copy.keras")
    np.testing.assert_array_equal(numbers(loaded(tokens)), numbers(first(tokens)))


def test_a_model_of_the_zoo_becomes_its_cbs_form():
    sizes = {"hidden_dim": 8, "depth": 2, "num_heads": 2, "patch_size": 8}
    sizes |= {"input_shape": (16, 16, 3), "classes": 3, "weights": None}
    plain = keras_cbvit.ViTCB(broadcast="none", **sizes)
    cbs = keras_cbvit.ViTCB(broadcast="cbs", **sizes)
    copy = keras_cbvit.insert_context_broadcast(plain, "block_*/mlp")
    weights = {weight.path: weight for weight in copy.weights}
    for name, weight in cbs.weights_by_name().items():
        weight.assign(weights[name])
    for model in (copy, cbs):
        set_scales(model, 0.5)
    images = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3))
    np.testing.assert_allclose(numbers(copy(images)), numbers(cbs(images)), atol=1e-5)


def pooling_model():
    return model_of([dense("fc1"), keras.layers.GlobalAveragePooling1D(name="pool")])


@pytest.mark.parametrize(
    ("make", "after", "message"),
    [
        (
            pooling_model,
            "fc3",
            "after='fc3' matches no layer of user; .* 'fc1'",
        ),
        (
            nested,
            "fc2",
            "after='fc2' .* are 'user/fc2', 'user/block/fc2'\\.",
        ),
        (pooling_model, [], "after=\\[\\] must be the path of a layer, or a list"),
        (pooling_model, 3, "after=3 must be the path of a layer, or a list"),
        (pooling_model, "pool", "pool must return one .* it returns one of 2 axes\\."),
        (pooling_model, "tokens", "matches tokens, which is an input"),
        (
            lambda: model_of([keras.layers.LSTM(4, return_state=True, name="lstm")]),
            "lstm",
            "lstm must return one tensor of shape .* it returns several\\.",
        ),
        (
            lambda: model_of([Block(name="block")]),
            "block/weigher",
            "block/weigher of user is never called",
        ),
        (lambda: keras.layers.Dense(3), "fc", "must be a functional or built"),
        (lambda: keras.Sequential([dense("fc1")]), "fc1", "must be a functional or"),
    ],
)
@pytest.mark.any_backend
def test_refuses_what_cannot_be(make, after, message):
    with pytest.raises(ValueError, match=message) as caught:
        keras_cbvit.insert_context_broadcast(make(), after)
    assert "Arguments received" not in str(caught.value)


class Unregistered(keras.layers.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


@keras.saving.register_keras_serializable(package="tests")
class Forgetful(keras.layers.Dense):
    def get_config(self):
        return {**super().get_config(), "units": 2}


def test_refuses_a_model_that_its_configuration_does_not_describe():
    model = model_of([dense("fc1"), Unregistered(lambda x: x)])
    with pytest.raises(ValueError, match="user cannot be rebuilt from its conf"):
        keras_cbvit.insert_context_broadcast(model, "fc1")
    # Keras's files do not know that a layer is shared with a nested model.
    shared, inputs = dense("fc1"), keras.Input((5, CHANNELS))
    nested = keras.Model(inputs, shared(model_of([shared])(inputs)), name="user")
    for model in (model_of([dense("fc1"), Forgetful(3)]), nested):
        with pytest.raises(ValueError, match="user has layers or weights that"):
            keras_cbvit.insert_context_broadcast(model, "fc1")


def test_keeps_what_layers_have_learned_otherwise(tokens):
    normalization = keras.layers.Normalization(name="normalization")
    normalization.adapt(3 * tokens + 1)
    model = model_of([normalization, Block(name="block")])
    fc1 = model.get_layer("block").steps[0]
    fc1.enable_lora(2)
    fc1.lora_kernel_b.assign(np.ones(fc1.lora_kernel_b.shape))
    copy = keras_cbvit.insert_context_broadcast(model, "block/fc2")
    np.testing.assert_allclose(numbers(copy(tokens)), numbers(model(tokens)), atol=1e-5)


@pytest.mark.any_backend
def test_refuses_what_is_quantized():
    model = model_of([dense("fc1"), dense("fc2")])
    copy = keras_cbvit.insert_context_broadcast(model, "fc1")
    for each in (model, copy):
        each.quantize("int8")
    with pytest.raises(ValueError, match="fc1 of user is quantized; insert CB"):
        keras_cbvit.insert_context_broadcast(model, "fc1")
    with pytest.raises(ValueError, match="is quantized; insert CB and save"):
        copy.get_config()
