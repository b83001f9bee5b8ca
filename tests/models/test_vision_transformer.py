import dataclasses
import inspect
import json
import math

import keras
import numpy as np
import pytest
from keras import ops

import keras_cbvit
from keras_cbvit import VisionTransformer, ViTSpec
from keras_cbvit.layers import TokenPooling
from tests.compare import assert_close, assert_equal, dtype_of
from tests.gradients import gradients
from tests.tiny import (
    QUANTIZED_FILES,
    TINY,
    assert_same_values,
    fill,
    images,
    predict,
    tiny,
    train,
    values,
)

# Against PyTorch and timm in float64.

CASES = {
    "plain": {"broadcast": "none"},
    "cb_mlp_end": {"broadcast_place": "mlp_end"},
    "cb_mlp_front": {"broadcast_place": "mlp_front"},
    "cb_mlp_mid": {"broadcast_place": "mlp_mid"},
    "cb_msa_end": {"broadcast_place": "msa_end"},
    "cb_both": {"broadcast_place": "both"},
    "cb_upper_half": {"broadcast_blocks": "upper"},
    "cb_max": {"context": "max"},
    "cb_token": {"context": "token"},
    "cbs_mlp_end": {"broadcast": "cbs"},
}


@pytest.fixture(scope="module", params=CASES)
def case(request, oracle, oracle_arguments, timm_state):
    """A case's name, and our model of it."""
    model = keras_cbvit.ViTCB(
        weights=timm_state,
        allow_other_function=True,
        **{**oracle_arguments, "broadcast": "cb", **CASES[request.param]},
    )
    if request.param == "cbs_mlp_end":
        for i, scale in enumerate(oracle["scales"]):
            model.get_layer(f"block_{i}").mlp.end[0].channel_scale.assign(scale)
    return request.param, model


def test_logits_are_those_of_timm(case, oracle):
    name, model = case
    logits = model(oracle["images"].astype("float32"))
    assert_close(logits, oracle[f"{name}/logits"], atol=1e-5)


def test_the_output_of_every_block_is_that_of_timm(case, oracle):
    name, model = case
    blocks = [model.get_layer(f"block_{i}").output for i in range(4)]
    found = keras.Model(model.input, blocks)(oracle["images"].astype("float32"))
    for i in range(4):
        assert_close(found[i], oracle[f"{name}/blocks"][i], atol=1e-5)


def test_the_loss_and_its_gradients_are_those_of_timm(case, oracle):
    name, model = case
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def loss(x):
        return cross_entropy(oracle["labels"], model(x))

    x = oracle["images"].astype("float32")
    position_embedding = model.get_layer("token_embedding").position_embedding
    (of_images,), (of_position,) = gradients(loss, x, variables=[position_embedding])
    assert_close(loss(x), oracle[f"{name}/loss"], atol=1e-5)
    assert_close(of_images, oracle[f"{name}/grad_images"], atol=1e-5)
    assert_close(of_position, oracle[f"{name}/grad_pos_embed"], atol=1e-5)


def test_broadcasting_amid_the_mlp_is_broadcasting_at_its_end():
    # CB's mean commutes with the second FC: the paper's Table 5 gives both +0.6.
    mid, end = (fill(tiny(broadcast_place=place)) for place in ("mlp_mid", "mlp_end"))
    plain = fill(tiny(broadcast="none"))
    assert_close(predict(mid), predict(end), atol=1e-5)
    assert np.abs(predict(end) - predict(plain)).max() > 1e-2


# Names, which are for ever.


def test_layers_are_named_by_their_part():
    assert [layer.name for layer in tiny().layers] == [
        "images",
        "normalization",
        "patch_embedding",
        "token_embedding",
        "block_0",
        "block_1",
        "norm",
        "pool",
        "head",
        "predictions",
    ]
    bare = tiny(include_preprocessing=False, include_top=False, classes=None)
    assert [layer.name for layer in bare.layers] == [
        "images",
        "patch_embedding",
        "token_embedding",
        "block_0",
        "block_1",
        "norm",
    ]


def test_weights_are_named_by_their_path():
    block = [
        "norm1/gamma",
        "norm1/beta",
        "attention/qkv/kernel",
        "attention/qkv/bias",
        "attention/projection/kernel",
        "attention/projection/bias",
        "norm2/gamma",
        "norm2/beta",
        "mlp/fc1/kernel",
        "mlp/fc1/bias",
        "mlp/fc2/kernel",
        "mlp/fc2/bias",
    ]
    expected = [
        "patch_embedding/projection/kernel",
        "patch_embedding/projection/bias",
        "token_embedding/class_token",
        "token_embedding/position_embedding",
        *(f"block_0/{name}" for name in block),
        *(f"block_1/{name}" for name in block),
        "norm/gamma",
        "norm/beta",
        "head/kernel",
        "head/bias",
    ]
    assert sorted(values(tiny())) == sorted(expected)
    scales = [f"block_{i}/mlp/context_broadcast/scale" for i in range(2)]
    assert sorted(values(tiny(broadcast="cbs"))) == sorted(expected + scales)


@pytest.mark.parametrize(
    "place, paths",
    [
        ("mlp_front", ["mlp"]),
        ("mlp_mid", ["mlp"]),
        ("mlp_end", ["mlp"]),
        ("msa_end", [""]),
        ("both", ["", "mlp"]),
    ],
)
def test_the_scale_has_a_path_at_every_place(place, paths):
    model = tiny(broadcast="cbs", broadcast_place=place, broadcast_blocks=[1])
    found = {path for path in values(model) if path.endswith("/scale")}
    assert found == {
        "/".join(filter(None, ("block_1", path, "context_broadcast/scale")))
        for path in paths
    }


# The parts.


def test_images_of_0_to_255_are_normalized_by_imagenets_mean_and_deviation():
    raw, normalized = fill(tiny()), fill(tiny(include_preprocessing=False))
    x = images(raw)
    by_hand = (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    by_hand = by_hand.astype("float32")
    assert_close(predict(raw, x), predict(normalized, by_hand), atol=1e-5)


def test_integer_images_are_taken():
    model = fill(tiny())
    x = images(model).astype("uint8")
    assert_close(predict(model, x), predict(model, x.astype("float32")))
    assert_close(model.predict(x, verbose=0), predict(model, x), atol=1e-5)


def test_without_a_head_tokens_are_pooled_as_asked():
    def headless(pooling):
        return fill(tiny(include_top=False, classes=None, pooling=pooling))

    tokens = predict(headless(None))
    assert tokens.shape == (4, 1 + 2 * 3, 16)
    assert_close(predict(headless("token")), tokens[:, 0])
    assert_close(predict(headless("avg")), tokens[:, 1:].mean(axis=1))
    assert headless("avg").output_shape == (None, 16)


def test_the_head_classifies_what_was_pooled():
    model = fill(tiny(pooling="avg"))
    pooled = predict(keras.Model(model.input, model.get_layer("pool").output))
    kernel, bias = (weight.numpy() for weight in model.get_layer("head").weights)
    e = np.exp(pooled @ kernel + bias)
    assert_close(predict(model), e / e.sum(axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("pooling", ["token", "avg"])
def test_the_average_of_many_tokens_is_wide_in_half_precision(pooling):
    # In 8 bits 512 + 1 is 512: see the same for the layer ContextBroadcast.
    x = np.ones((1, 4097, 1), "float32")
    x[:, :2] = 512.0
    y = TokenPooling(pooling, dtype="bfloat16")(ops.cast(x, "bfloat16"))
    assert dtype_of(y) == "bfloat16"
    assert_equal(y, [[512.0 if pooling == "token" else 1.125]])


def test_drop_path_grows_linearly_from_the_first_block_to_the_last():
    model = tiny(depth=4, drop_path_rate=0.3)
    blocks = [model.get_layer(f"block_{i}") for i in range(4)]
    for paths in ([b.drop_path1 for b in blocks], [b.drop_path2 for b in blocks]):
        assert [path.rate for path in paths] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_broadcast_blocks_are_all_the_upper_half_or_those_named():
    for blocks, depth, expected in (
        ("all", 4, [0, 1, 2, 3]),
        ("upper", 4, [2, 3]),
        ("upper", 5, [2, 3, 4]),
        ([3, 0], 4, [0, 3]),
    ):
        model = tiny(depth=depth, broadcast_blocks=blocks)
        assert [i for i, block in enumerate(model.blocks) if block.mlp.end] == expected


# Training.


@pytest.mark.parametrize("broadcast", [None, "cb", "cbs"])
def test_every_parameter_learns(broadcast, oracle, oracle_arguments):
    model = keras_cbvit.ViTCB(broadcast=broadcast, **oracle_arguments)
    x = oracle["images"].astype("float32")
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    _, found = gradients(
        lambda: cross_entropy(oracle["labels"], model(x, training=True)),
        variables=model.trainable_variables,
    )
    assert len(model.trainable_variables) == len(model.weights)
    dead = [
        weight.path
        for weight, gradient in zip(model.trainable_variables, found, strict=True)
        if not np.isfinite(gradient).all() or not np.abs(gradient).max() > 0
    ]
    assert dead == []


def test_a_step_of_fit_changes_every_parameter():
    model = tiny(broadcast="cbs", drop_path_rate=0.2)
    before = values(model)
    history = train(model)
    assert math.isfinite(history.history["loss"][0])
    still = [path for path, v in values(model).items() if (v == before[path]).all()]
    assert still == []


# Precision.


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_predicts_in_float32_and_nearly_the_same(dtype):
    mixed = fill(tiny(broadcast="cbs", dtype=dtype))
    y = predict(mixed)
    assert y.dtype == "float32"
    assert dtype_of(mixed.get_layer("block_1").output) == dtype.removeprefix("mixed_")
    assert {weight.dtype for weight in mixed.weights} == {"float32"}
    wide = predict(fill(tiny(broadcast="cbs")))
    assert_close(y, wide, atol=0.05 if dtype == "mixed_bfloat16" else 0.01)
    assert np.abs(y - wide).max() > 1e-6  # it was not float32


def test_the_global_dtype_policy_is_followed():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = tiny()
    finally:
        keras.config.set_dtype_policy("float32")
    assert dtype_of(model.get_layer("block_1").output) == "bfloat16"
    assert dtype_of(model.output) == "float32"


@pytest.mark.slow
@QUANTIZED_FILES
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
@pytest.mark.any_backend
def test_a_quantized_model_is_close_and_comes_back_from_its_file(tmp_path):
    model = fill(tiny(depth=1, mlp_ratio=1, dtype="mixed_bfloat16"))
    before = predict(model)
    model.quantize("int8")
    after = predict(model)
    assert values(model)["block_0/mlp/fc1/kernel"].dtype == "int8"
    assert_close(after, before, atol=0.1)
    for name in ("once.keras", "twice.keras"):
        model.save(tmp_path / name)
        model = keras.saving.load_model(tmp_path / name)
        assert_equal(predict(model), after)


@pytest.mark.skipif(
    hasattr(keras.quantizers, "QuantizationConfig"), reason="of an older Keras"
)
def test_a_quantized_model_that_could_not_be_loaded_is_not_saved(tmp_path):
    model = tiny()
    model.get_layer("head").quantize("int8")
    with pytest.raises(ValueError, match="head is quantized, which Keras 3.12"):
        model.save(tmp_path / "model.keras")


def test_lora_trains_only_its_own_weights_and_is_merged_in_the_file(tmp_path):
    model = fill(tiny(depth=1))
    plain = predict(model)
    block = model.get_layer("block_0")
    for dense in (block.attention.qkv, block.mlp.fc1):
        dense.enable_lora(2)
    assert_close(predict(model), plain)  # it starts as the identity
    trainable = {weight.path for weight in model.trainable_variables}
    assert not {"block_0/attention/qkv/kernel", "block_0/mlp/fc1/kernel"} & trainable
    lora = [weight for weight in model.trainable_variables if "lora" in weight.path]
    assert len(lora) == 4
    for weight in lora:
        weight.assign(np.full(weight.shape, 0.2))
    assert np.abs(predict(model) - plain).max() > 1e-3
    model.save(tmp_path / "lora.keras")
    loaded = keras.saving.load_model(tmp_path / "lora.keras")
    assert loaded.count_params() == tiny(depth=1).count_params()
    assert_close(predict(loaded), predict(model), atol=1e-5)


# Configuration.

# Every field with another value than its default, as far as they go together.
SPEC = {
    "input_shape": (None, 12, 1),
    "patch_size": 4,
    "hidden_dim": 16,
    "depth": 2,
    "num_heads": 4,
    "mlp_ratio": 2.0,
    "class_token": False,
    "num_register_tokens": 3,
    "prefix_position_embedding": False,
    "position_grid": (2, 3),
    "pre_norm": True,
    "qkv_bias": False,
    "qk_norm": True,
    "activation": "swiglu",
    "layer_scale": 0.5,
    "epsilon": 1e-5,
    "broadcast": "cbs",
    "broadcast_place": "both",
    "broadcast_blocks": (1,),
    "context": "max",
    "squeeze_excitation": True,
    "extra_branch": "mlp",
    "drop_path_rate": 0.25,
    "remat": True,
    "include_preprocessing": False,
    "mean": (0.5, 0.25, 0.125),
    "std": (0.5, 0.75, 1.0),
    "pooling": "avg",
    "fc_norm": True,
    "classes": 3,
    "classifier_activation": "sigmoid",
}
OTHER_SPEC = {
    **TINY,
    "distillation_token": True,
    "uniform_head": "attached",
    "pooling": "distilled",
}
EVERY_ARGUMENT = {
    "spec": SPEC,
    "dtype": "mixed_bfloat16",
    "name": "of_another_name",
    "trainable": False,
    "frozen_layers": ["block_0"],
    "class_names": ["cat", "dog", "eel"],
}


@pytest.mark.any_backend
def test_every_argument_comes_back_from_the_configuration():
    parameters = inspect.signature(VisionTransformer).parameters
    assert EVERY_ARGUMENT.keys() == parameters.keys() - {"images"}
    defaults = dataclasses.asdict(ViTSpec())
    assert not SPEC.items() & defaults.items()
    assert defaults.keys() == SPEC.keys() | OTHER_SPEC.keys()
    assert not OTHER_SPEC.items() & {**defaults, **TINY}.items() - TINY.items()
    model = VisionTransformer(**EVERY_ARGUMENT)
    assert model.spec == ViTSpec(**SPEC)
    text = json.dumps(keras.saving.serialize_keras_object(model))
    copy = keras.saving.deserialize_keras_object(json.loads(text))
    config = copy.get_config()
    assert config == model.get_config()
    assert config.pop("dtype")["config"] == {"name": "mixed_bfloat16"}
    assert config == {
        **{k: v for k, v in EVERY_ARGUMENT.items() if k != "dtype"},
        "spec": ViTSpec(**SPEC).to_json(),
        "frozen_layers": config["frozen_layers"],
    }
    assert "block_0/attention/qkv" in config["frozen_layers"]
    assert {path: v.shape for path, v in values(copy).items()} == {
        path: v.shape for path, v in values(model).items()
    }
    assert copy.trainable_weights == []
    other = VisionTransformer(OTHER_SPEC)
    assert VisionTransformer.from_config(other.get_config()).spec == other.spec
    # A spec and its fields as a dict are the same.
    own = {**EVERY_ARGUMENT, "spec": ViTSpec(**SPEC)}
    assert VisionTransformer(**own).get_config() == model.get_config()


def test_frozen_layers_come_back_from_the_file(tmp_path):
    model = tiny()
    model.get_layer("block_0").trainable = False
    model.get_layer("block_1").mlp.fc1.trainable = False
    expected = [weight.path for weight in model.trainable_weights]
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert [weight.path for weight in copy.trainable_weights] == expected
    # Building with the weights of the file does not freeze anything.
    tuned = keras_cbvit.ViTCB(weights=tmp_path / "model.keras")
    assert len(tuned.trainable_weights) == len(tuned.weights)


def test_numpy_numbers_are_numbers():
    model = tiny(patch_size=np.int64(4), broadcast_blocks=np.array([0, 1]))
    assert model.get_config() == tiny(broadcast_blocks=[0, 1]).get_config()


def test_a_model_built_in_a_name_scope_takes_weights(tmp_path):
    source = fill(tiny())
    source.save(tmp_path / "model.keras")
    with keras.name_scope("student"):
        model = keras_cbvit.ViTCB(
            weights=tmp_path / "model.keras", classes=5, input_shape=(8, 8, 3)
        )
    assert model.output_shape == (None, 5)
    copied = [path for path in values(source) if path.startswith("block_")]
    assert len(copied) == 24
    for path in copied:
        assert_equal(values(model)[f"student/{path}"], values(source)[path])


@pytest.mark.parametrize("blocks", ["all", "upper", (0,), [0], range(1)])
def test_a_model_comes_back_from_its_file(blocks, tmp_path):
    model = fill(tiny(broadcast="cbs", broadcast_blocks=blocks))
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert type(copy) is VisionTransformer
    assert copy.get_config() == model.get_config()
    assert_same_values(values(copy), values(model))
    assert_equal(predict(copy), predict(model))


def test_a_model_comes_back_from_json_and_from_a_clone():
    model = fill(tiny())
    for copy in (
        keras.models.model_from_json(model.to_json()),
        keras.models.clone_model(model),
    ):
        copy.set_weights(model.get_weights())
        assert_equal(predict(copy), predict(model))


# Bad arguments.


@pytest.mark.parametrize(
    "bad, message",
    [
        (
            {"input_shape": (30, 48, 3), "patch_size": 8},
            r"input_shape=\(30, 48, 3\) must have a height and width that are "
            r"multiples of patch_size=8, for instance \(32, 48, 3\)",
        ),
        ({"input_shape": (8, 3, 3)}, r"for instance \(8, 4, 3\)"),
        ({"input_shape": (8, 12)}, r"input_shape=\(8, 12\) must be \(height, width"),
        ({"input_shape": 224}, r"input_shape=224 must be \(height, width, channels\)"),
        ({"input_shape": (8, 12, None)}, r"input_shape=\(8, 12, None\) must be"),
        ({"input_shape": (8, 12.0, 3)}, "input_shape=12.0 must be a whole number"),
        ({"num_heads": 3}, "num_heads=3 must divide hidden_dim=16"),
        ({"num_heads": 0}, "num_heads=0 must be a whole number of at least 1"),
        ({"hidden_dim": -16}, "hidden_dim=-16 must be a whole number of at least 1"),
        ({"depth": 0}, "depth=0 must be a whole number of at least 1"),
        ({"depth": True}, "depth=True must be a whole number"),
        ({"patch_size": 4.0}, r"patch_size=4\.0 must be a whole number of at least 1"),
        ({"mlp_ratio": 0}, "mlp_ratio=0 leaves no hidden channels"),
        ({"mlp_ratio": "4"}, "mlp_ratio='4' must be a number"),
        ({"drop_path_rate": "no"}, "drop_path_rate='no' must be a number"),
        ({"include_top": "no"}, "include_top='no' is unknown"),
        (
            {"broadcast": "CB"},
            "broadcast='CB' is unknown; use one of 'none', 'cb', 'cbs'",
        ),
        ({"broadcast": ["cb"]}, r"broadcast=\['cb'\] is unknown"),
        (
            {"broadcast_place": "mlp"},
            "broadcast_place='mlp' is unknown; use one of 'mlp_end', 'mlp_front', "
            "'mlp_mid', 'msa_end', 'both'",
        ),
        (
            {"broadcast_blocks": "lower"},
            "broadcast_blocks='lower' is unknown; use 'all', 'upper' or a sequence",
        ),
        ({"broadcast_blocks": 1}, "broadcast_blocks=1 is unknown"),
        ({"broadcast_blocks": [0.5]}, r"broadcast_blocks=\[0\.5\] is unknown"),
        (
            {"broadcast_blocks": [0, 2]},
            r"broadcast_blocks=\(0, 2\) is out of range; with depth=2 the blocks are",
        ),
        ({"broadcast_blocks": (-1,)}, r"broadcast_blocks=\(-1,\) is out of range"),
        (
            {"context": "median"},
            "context='median' is unknown; use one of 'mean', 'max', 'token'",
        ),
        ({"drop_path_rate": 1.0}, r"drop_path_rate=1\.0 must be at least 0 and less"),
        ({"drop_path_rate": -0.1}, r"drop_path_rate=-0\.1 must be at least 0"),
        (
            {"input_shape": (8, 12, 1)},
            r"mean=\(0\.485, 0\.456, 0\.406\) must have one number per channel of "
            r"input_shape=\(8, 12, 1\); or set include_preprocessing=False",
        ),
        (
            {"pooling": "max"},
            "pooling='max' is unknown; use one of 'token', 'avg', 'token_avg', ",
        ),
        ({"classes": 0}, "classes=0 must be a whole number of at least 1"),
        (
            {"include_top": False},
            "classes=3 has no effect with include_top=False, which leaves out the head",
        ),
    ],
)
def test_an_argument_that_cannot_work_is_refused_with_what_would(bad, message):
    with pytest.raises(ValueError, match=message):
        tiny(**bad)


def test_remat_trains_to_the_same_weights_though_paths_are_dropped():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (8, *TINY["input_shape"])).astype("float32")
    labels = random.integers(TINY["classes"], size=8)
    trained = []
    for remat in (False, True):
        keras.utils.set_random_seed(0)
        model = tiny(remat=remat, drop_path_rate=0.5, broadcast="cbs")
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        model.fit(images, labels, batch_size=8, epochs=3, shuffle=False, verbose=0)
        trained.append(values(model))
    for path, expected in trained[0].items():
        assert_close(trained[1][path], expected, atol=1e-6)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow's choice"
)
@pytest.mark.parametrize(
    "jit_compile, expected", [(None, True), ("auto", False), (True, True)]
)
def test_prediction_is_by_xla_unless_the_model_is_compiled_otherwise(
    jit_compile, expected, monkeypatch
):
    import tensorflow as tf

    model = tiny()
    if jit_compile is not None:
        model.compile("sgd", "mse", jit_compile=jit_compile)
    before, asked, function = model.jit_compile, [], tf.function

    def recorded(*args, **kwargs):
        asked.append(kwargs.get("jit_compile"))
        return function(*args, **kwargs)

    monkeypatch.setattr(tf, "function", recorded)
    model.predict(np.zeros((1, *TINY["input_shape"])), verbose=0)
    assert (True in asked) == expected
    assert model.jit_compile == before
