"""Whatever is quantized comes back from its file as it was."""

import json

import keras
import numpy as np
import pytest

import keras_cbvit
from keras_cbvit.pretrained.publishing import check_publishable
from tests.tiny import QUANTIZED_FILES, fill, images, predict, tiny, values

pytestmark = [
    pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`"),
    QUANTIZED_FILES,
    pytest.mark.slow,
]


def headless(**changes):
    return tiny(depth=1, include_top=False, classes=None, **changes)


def upernet():
    vit = tiny(depth=4, include_top=False, classes=None, pooling=None)
    backbone = keras_cbvit.feature_pyramid(vit, range(4))
    model = keras_cbvit.SegmentationModel(backbone, 3, 4)
    return fill_positive_variances(model)


def fill_positive_variances(model):
    fill(model)
    for weight in model.weights:
        if weight.path.endswith("variance"):
            weight.assign(np.abs(weight.numpy()) + 0.5)
    return model


@keras.saving.register_keras_serializable(package="test_quantization")
class OwnTransformer(keras_cbvit.VisionTransformer):
    """A subclass whose second block is without CB."""

    @classmethod
    def encoder_block(cls, i, spec, dtype):
        spec = spec.replace(broadcast="none") if i == 1 else spec
        return super().encoder_block(i, spec, dtype)


def clone(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def part(model):
    return keras.Model(model.input, model.get_layer("block_0").output)


MODELS = {
    "classifier": lambda: fill(tiny(depth=1)),
    "feature extractor": lambda: fill(headless()),
    "tokens": lambda: fill(headless(pooling=None)),
    "UperNet": upernet,
    "clone": lambda: clone(fill(tiny(depth=1))),
    "subclass": lambda: fill(OwnTransformer(tiny().spec)),
    "DINOv2-like": lambda: fill(
        tiny(activation="swiglu", num_register_tokens=2, layer_scale=0.5, qk_norm=True)
    ),
    "distilled": lambda: fill(
        tiny(depth=1, distillation_token=True, pooling="distilled")
    ),
    "part": lambda: part(fill(tiny(depth=1, broadcast="cbs"))),
    "nested": lambda: keras.Sequential([keras.Input((8, 12, 3)), fill(headless())]),
    "nested part": lambda: keras.Sequential(
        [keras.Input((8, 12, 3)), part(fill(tiny(depth=1)))]
    ),
    **{
        f"{field} {value}": lambda field=field, value=value: fill(
            tiny(depth=1, **{field: value})
        )
        for field, value in (
            ("uniform_head", "attached"),
            ("squeeze_excitation", True),
            ("extra_branch", "msa"),
            ("layer_scale", 0.5),
            ("context", "max"),
            ("context", "token"),
            ("broadcast", "cbs"),
            ("dtype", "mixed_bfloat16"),
        )
    },
}


def inputs(model):
    if None in model.input_shape[1:]:
        return np.random.default_rng(1).uniform(0, 255, (2, 8, 12, 3)).astype("float32")
    return images(model, 2)


def modes(model):
    """How each layer that is quantized is so, by its path."""
    found = {
        layer.path: [layer.dtype_policy.name, layer.quantization_config.get_config()]
        for layer in model._flatten_layers()
        if layer.quantization_mode is not None
    }
    return json.loads(json.dumps(found))


# Each compiles; what is of a backend shows in these.
ON_EACH_BACKEND = ("classifier", "part")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in ON_EACH_BACKEND else pytest.mark.any_backend)
        for n in MODELS
    ],
)
def test_a_quantized_model_comes_back_from_its_file(name, tmp_path):
    model = MODELS[name]()
    x = inputs(model)
    before = predict(model, x)
    model.quantize("int8")
    after = predict(model, x)
    assert 0 < np.abs(after - before).max() < 0.2 * np.abs(before).max()
    kernels = [value for value in values(model).values() if value.dtype == "int8"]
    assert len(kernels) == len(modes(model)) >= 5
    model.save(tmp_path / "model.keras")
    loaded = keras_cbvit.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(predict(loaded, x), after)
    assert modes(loaded) == modes(model)


def pyramid_of(model):
    return keras_cbvit.feature_pyramid(model, range(4))


def upernet_of_a_quantized_model():
    vit = fill(tiny(depth=4))
    vit.quantize("int8", filters="qkv")
    model = keras_cbvit.SegmentationModel(pyramid_of(vit), 3, 4)
    model.quantize("int4", filters="fc1")
    return model


BUILT_OF_MODELS = {
    "feature maps": lambda: quantized(pyramid_of(fill(tiny(depth=4))), "int4"),
    "of a quantized model": lambda: pyramid_of(quantized(fill(tiny(depth=4)))),
    "UperNet": lambda: quantized(upernet(), "float8"),
    "UperNet of a quantized model": upernet_of_a_quantized_model,
    "UperNet to train": lambda: quantized(upernet().with_auxiliary_head(4)),
    "clone of a quantized UperNet": lambda: clone(quantized(upernet(), "int4")),
}


def quantized(model, mode="int8"):
    model.quantize(mode)
    return model


@pytest.mark.parametrize("name", BUILT_OF_MODELS)
@pytest.mark.any_backend
def test_what_is_built_of_models_comes_back_too(name, tmp_path):
    model = BUILT_OF_MODELS[name]()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert modes(loaded) == modes(model) != {}
    x = np.random.default_rng(1).uniform(0, 255, (2, 16, 24, 3))
    for found, expected in zip(
        *(keras.tree.flatten(each(x)) for each in (loaded, model)), strict=True
    ):
        found, expected = map(keras.ops.convert_to_numpy, (found, expected))
        np.testing.assert_array_equal(found, expected)


def for_text(kind):
    """A configuration of a mode that Keras calibrates on text."""
    return kind(["a text"], tokenizer=str.split, quantization_layer_structure={})


@pytest.mark.any_backend
def test_a_mode_for_text_is_refused_and_changes_nothing(tmp_path):
    model = fill(tiny(depth=1))
    before = predict(model)
    for kind in (keras.quantizers.GPTQConfig, keras.quantizers.AWQConfig):
        with pytest.raises(ValueError, match="is for text models; use int8, int4"):
            model.quantize(config=for_text(kind))
        assert modes(model) == {}
        np.testing.assert_array_equal(predict(model), before)
        # Keras's own models are quantized before it fails, and cannot be saved.
        other = part(fill(tiny(depth=1)))
        with pytest.raises(AttributeError, match="tokenize"):
            other.quantize(config=for_text(kind))
        with pytest.raises(ValueError, match="so it cannot be saved"):
            other.save(tmp_path / "model.keras")


def foreign():
    tokens = keras.Input((5, 4))
    model = keras.Model(tokens, keras.layers.Dense(4, name="mlp")(tokens))
    return keras_cbvit.insert_context_broadcast(model, after="mlp")


@pytest.mark.any_backend
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_a_model_of_another_package_is_saved_before_it_is_quantized(mode, tmp_path):
    model = foreign()
    model.save(tmp_path / "model.keras")
    content = (tmp_path / "model.keras").read_bytes()
    model.quantize(mode)
    for name in ("model.keras", "other.keras"):
        with pytest.raises(ValueError, match="is quantized; insert CB and save"):
            model.save(tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]
    assert (tmp_path / "model.keras").read_bytes() == content


@pytest.mark.any_backend
@pytest.mark.parametrize("name, mode", [("classifier", "int4"), ("UperNet", "int8")])
def test_quantized_kernels_do_not_take_lora_into_a_file(name, mode, tmp_path):
    model = quantized(MODELS[name](), mode)
    model.save(tmp_path / "base.keras")
    keras_cbvit.enable_lora(model, 2)
    for weight in model.weights:
        if "lora" in weight.path:
            weight.assign(np.full(weight.shape, 0.1))
    for save, file in ((model.save, "a.keras"), (model.save_weights, "a.weights.h5")):
        with pytest.raises(ValueError, match="has LoRA on a kernel in int"):
            save(tmp_path / file)
    keras_cbvit.save_lora_weights(model, tmp_path / "a.lora.h5")
    assert {file.name for file in tmp_path.iterdir()} == {"base.keras", "a.lora.h5"}
    loaded = keras_cbvit.load_model(tmp_path / "base.keras")
    keras_cbvit.load_lora_weights(loaded, tmp_path / "a.lora.h5")
    x = inputs(model)
    np.testing.assert_array_equal(predict(loaded, x), predict(model, x))
    with pytest.raises(ValueError, match="The model is quantized; publish it before"):
        check_publishable(model, "vitcb_tests.int", tmp_path)


# Functions, since Keras 3.12 has no configurations.
HOW = {
    "weights_only": lambda: {
        "config": keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    },
    "int4": lambda: {"mode": "int4"},
    "int4_blocks": lambda: {
        "config": keras.quantizers.Int4QuantizationConfig(block_size=8)
    },
    "float8": lambda: {"mode": "float8"},
    "fc1": lambda: {"mode": "int8", "filters": "fc1"},
}


@pytest.mark.parametrize("name", ["classifier", "part"])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.any_backend
def test_how_it_is_quantized_comes_back_too(how, name, tmp_path):
    model = MODELS[name]()
    model.quantize(**HOW[how]())
    model.save(tmp_path / "model.keras")
    loaded = keras_cbvit.load_model(tmp_path / "model.keras")
    assert modes(loaded) == modes(model) != {}
    np.testing.assert_array_equal(predict(loaded), predict(model))


@pytest.mark.any_backend
def test_two_ways_of_quantizing_in_one_model_come_back_again_and_again(tmp_path):
    model = fill(tiny(depth=1))
    model.quantize("int8", filters="fc1|head")
    model.quantize("int4", filters="qkv")
    loaded = model
    for _ in range(2):
        loaded.save(tmp_path / "model.keras")
        loaded = keras_cbvit.load_model(tmp_path / "model.keras")
        assert modes(loaded) == modes(model)
        assert len(modes(model)) == 3
        np.testing.assert_array_equal(predict(loaded), predict(model))


@pytest.mark.any_backend
def test_the_configuration_of_a_quantized_model_builds_one(tmp_path):
    model = fill(tiny(depth=1))
    model.quantize("int8")
    copy = type(model).from_config(model.get_config())
    assert copy.get_config() == model.get_config()
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(predict(copy), predict(model))


@pytest.mark.any_backend
def test_a_block_keeps_how_its_parts_are_quantized():
    block = keras_cbvit.layers.EncoderBlock(2, 8, name="other_name")
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, block(inputs))
    model.quantize("int8")
    config = block.get_config()
    parts = {"attention/qkv", "attention/projection", "mlp/fc1", "mlp/fc2"}
    assert config["quantized"].keys() == parts
    unbuilt = keras_cbvit.layers.EncoderBlock.from_config(config)
    assert unbuilt.get_config()["quantized"] == config["quantized"]
    again = keras_cbvit.layers.EncoderBlock.from_config({**config, "name": "renamed"})
    again.build((None, 5, 4))
    assert again.mlp.fc1.kernel.dtype == "int8"
    again.set_weights(block.get_weights())
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    found, expected = (keras.ops.convert_to_numpy(each(x)) for each in (again, block))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("as_map", [False, True])
@pytest.mark.any_backend
def test_a_model_is_not_built_quantized(as_map):
    dtype = keras.dtype_policies.get("int8_from_float32")
    if as_map:
        layers = {"block_0/mlp/fc1": dtype}
        dtype = keras.dtype_policies.DTypePolicyMap("float32", layers)
    with pytest.raises(ValueError, match="dtype="):
        tiny(depth=1, dtype=dtype)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.any_backend
def test_a_model_of_a_name_scope_comes_back_with_its_state(quantized, tmp_path):
    with keras.name_scope("student"):
        model = tiny(depth=1)
    model.get_layer("block_0").trainable = False
    if quantized:
        model.quantize("int8")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    trainable = len(model.trainable_weights)
    assert 0 < trainable == len(loaded.trainable_weights) < len(loaded.weights)
    np.testing.assert_array_equal(predict(loaded), predict(model))


def test_feature_models_compute_with_quantized_weights():
    model = fill(tiny(depth=1))
    features, x = model.feature_model([0]), images(model)
    before = features.predict(x, verbose=0)  # TensorFlow and JAX trace it
    model.quantize("int8")
    after = features.predict(x, verbose=0)
    assert np.abs(after - before).max() > 1e-6
    new = model.feature_model([0])
    np.testing.assert_allclose(after, predict(new, x), rtol=1e-5, atol=1e-6)
