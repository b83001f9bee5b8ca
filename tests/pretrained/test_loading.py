import json
import re
import zipfile

import keras
import numpy as np
import pytest

import keras_cbvit
from keras_cbvit.layers.token_embedding import resample_position_embedding
from tests.compare import assert_close
from tests.tiny import (
    QUANTIZED_FILES,
    TINY,
    assert_same_values,
    fill,
    first_on_each_backend,
    images,
    predict,
    tiny,
    values,
)

POSITION = "token_embedding/position_embedding"
KERNEL = "patch_embedding/projection/kernel"
HEAD = {"head/kernel", "head/bias"}


class Source:
    """A model on disk, in both formats, and the values of its weights."""

    def __init__(self, folder, **changes):
        self.model = fill(tiny(**changes))
        self.values = values(self.model)
        self.keras = folder / "model.keras"
        self.h5 = folder / "model.weights.h5"
        self.model.save(self.keras)
        self.model.save_weights(self.h5)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return Source(tmp_path_factory.mktemp("cb"))


@pytest.fixture(scope="module")
def source_plain(tmp_path_factory):
    return Source(tmp_path_factory.mktemp("plain"), broadcast="none")


@pytest.fixture(scope="module")
def source_cbs(tmp_path_factory):
    return Source(tmp_path_factory.mktemp("cbs"), broadcast="cbs")


@pytest.fixture(scope="module")
def source_headless(tmp_path_factory):
    changes = {"include_top": False, "classes": None}
    return Source(tmp_path_factory.mktemp("headless"), **changes)


@pytest.fixture(scope="module")
def source_square(tmp_path_factory):
    return Source(tmp_path_factory.mktemp("square"), input_shape=(12, 12, 3))


def without(found, *paths):
    return {path: value for path, value in found.items() if path not in paths}


# The model of the file.


def test_what_is_not_given_is_taken_from_a_keras_file(tmp_path):
    model = fill(
        tiny(
            broadcast="cbs",
            broadcast_place="mlp_mid",
            broadcast_blocks=[1],
            context="max",
            pooling="avg",
            drop_path_rate=0.25,
            classifier_activation=None,
        )
    )
    model.save(tmp_path / "model.keras")
    loaded = keras_cbvit.ViTCB(weights=tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    assert_same_values(values(loaded), values(model))
    np.testing.assert_array_equal(predict(loaded), predict(model))


def test_an_activation_that_is_given_is_not_that_of_the_file(tmp_path):
    model = fill(tiny(classifier_activation=None))
    model.save(tmp_path / "model.keras")
    loaded = keras_cbvit.ViTCB(
        weights=tmp_path / "model.keras", classifier_activation="softmax"
    )
    assert loaded.spec.classifier_activation == "softmax"
    logits = predict(model)
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert_close(predict(loaded), e / e.sum(axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    "dtype", first_on_each_backend(["bfloat16", "float16", "float64"])
)
def test_weights_of_another_dtype_are_loaded_in_float32(dtype, tmp_path):
    model = fill(tiny(dtype=dtype))
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    expected = {
        path: keras.ops.convert_to_numpy(keras.ops.cast(weight, "float32"))
        for path, weight in model.weights_by_name().items()
    }
    for loaded in (
        keras_cbvit.ViTCB(weights=tmp_path / "model.keras"),
        tiny(weights=tmp_path / "model.weights.h5"),
    ):
        assert loaded.dtype_policy.name == "float32"
        assert_same_values(values(loaded), expected)
    whole = keras_cbvit.load_model(tmp_path / "model.keras")
    assert whole.dtype_policy.name == dtype
    np.testing.assert_array_equal(predict(whole), predict(model))


@pytest.mark.parametrize(
    "changes",
    first_on_each_backend(
        [
            {"num_register_tokens": 3},
            {"num_register_tokens": 3, "prefix_position_embedding": False},
            {"layer_scale": 0.5, "epsilon": 1e-3},
            {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 1)},
            {"input_shape": (None, None, 3), "position_grid": (2, 3)},
        ]
    ),
)
def test_every_part_of_a_model_is_taken_from_its_file(changes, tmp_path):
    source = Source(tmp_path, **changes)
    loaded = keras_cbvit.ViTCB(weights=source.keras)
    assert loaded.get_config() == source.model.get_config()
    assert_same_values(values(loaded), source.values)
    assert_same_values(values(tiny(weights=source.h5, **changes)), source.values)
    x = images(tiny())
    np.testing.assert_array_equal(predict(loaded, x), predict(source.model, x))


@pytest.mark.parametrize("positioned", [True, False])
def test_register_tokens_stay_when_the_position_embedding_is_resampled(
    positioned, tmp_path
):
    changes = {"num_register_tokens": 3, "prefix_position_embedding": positioned}
    source = Source(tmp_path, **changes)
    model = keras_cbvit.ViTCB(weights=source.keras, input_shape=(16, 8, 3))
    prefix = 4 if positioned else 0
    expected = resample_position_embedding(
        source.values[POSITION], (2, 3), (4, 2), prefix
    )
    assert_same_values(values(model), {**source.values, POSITION: expected})
    for given in ({"num_register_tokens": 2}, {"num_register_tokens": 0}):
        for shape in ((16, 8, 3), (8, 12, 3)):
            message = "have num_register_tokens=3, not"
            with pytest.raises(ValueError, match=message):
                keras_cbvit.ViTCB(weights=source.keras, input_shape=shape, **given)


def test_what_is_given_goes_before_what_the_file_says(source):
    loaded = keras_cbvit.ViTCB(
        weights=str(source.keras),
        remat=True,
        drop_path_rate=0.25,
        classifier_activation=None,
        dtype="mixed_bfloat16",
        name="mine",
    )
    spec = loaded.spec
    assert (spec.remat, spec.drop_path_rate) == (True, 0.25)
    assert (spec.classifier_activation, loaded.name) == (None, "mine")
    assert loaded.dtype_policy.name == "mixed_bfloat16"
    assert_same_values(values(loaded), source.values)


def test_weights_of_a_h5_file_are_loaded_into_the_model_that_is_described(source):
    assert_same_values(values(tiny(weights=source.h5)), source.values)


def test_a_h5_file_saved_without_drop_path_is_loaded_for_training_with_it(source):
    model = tiny(weights=source.h5, drop_path_rate=0.2)
    assert_same_values(values(model), source.values)


def test_files_may_hold_the_state_of_training(trained, tmp_path):
    trained.save(tmp_path / "model.keras")
    trained.save_weights(tmp_path / "model.weights.h5")
    for name in ("model.keras", "model.weights.h5"):
        model = tiny(weights=tmp_path / name, depth=1)
        assert_same_values(values(model), values(trained))


def test_a_model_saved_in_mixed_precision_is_loaded_in_float32(tmp_path):
    model = fill(tiny(dtype="mixed_bfloat16"))
    model.save(tmp_path / "model.keras")
    loaded = keras_cbvit.ViTCB(weights=tmp_path / "model.keras")
    assert loaded.dtype_policy.name == "float32"
    assert_same_values(values(loaded), values(model))


# Another head.


@pytest.mark.parametrize("pooling", ["token", "avg", None])
def test_without_a_head_the_rest_is_loaded(pooling, source):
    model = keras_cbvit.ViTCB(weights=source.keras, include_top=False, pooling=pooling)
    assert_same_values(values(model), without(source.values, *HEAD))


def test_without_a_head_the_rest_of_a_h5_file_is_loaded(source):
    model = tiny(weights=source.h5, include_top=False, classes=None)
    assert_same_values(values(model), without(source.values, *HEAD))


def test_a_head_for_other_classes_is_reinitialized_and_the_rest_is_loaded(source):
    model = keras_cbvit.ViTCB(weights=source.keras, classes=5)
    found = values(model)
    assert_same_values(without(found, *HEAD), without(source.values, *HEAD))
    assert found["head/kernel"].shape == (16, 5)
    assert found["head/kernel"].std() < 0.05  # the source's is 0.3
    assert (found["head/bias"] == 0).all()


def test_a_head_for_the_same_number_of_classes_is_loaded(source):
    assert_same_values(values(tiny(weights=source.keras, classes=3)), source.values)


@pytest.mark.any_backend
def test_a_headless_file_needs_classes_or_no_head(source_headless):
    message = (
        "has no classification head; pass classes=... for a new one, or "
        "include_top=False"
    )
    with pytest.raises(ValueError, match=message):
        keras_cbvit.ViTCB(weights=source_headless.keras)
    model = keras_cbvit.ViTCB(weights=source_headless.keras, include_top=False)
    assert model.head is None
    assert_same_values(values(model), source_headless.values)
    for pooling in (None, "avg"):
        model = keras_cbvit.ViTCB(
            weights=source_headless.keras, classes=3, pooling=pooling
        )
        assert model.spec.pooling == (pooling or "token")
        assert_same_values(without(values(model), *HEAD), source_headless.values)
        assert values(model)["head/kernel"].std() < 0.05


# A file of weights alone.

NOT_TOLD = (
    "do not match this model; nothing was loaded. .* Pass the arguments that the model "
    "of the file was built with; unlike a .keras file, a .weights.h5 file does not "
)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"classes": None}, r"Of another shape: head/bias \(3,\) for \(1000,\), "),
        ({"classes": 5}, r"head/kernel \(16, 3\) for \(16, 5\)"),
        (
            {"input_shape": (16, 16, 3)},
            r"Of another shape: .*/position_embedding \(1, 7, 16\) for \(1, 17, 16\)",
        ),
        ({"depth": 4}, "Missing: block_2/attention/projection/bias, .* and 16 more"),
        ({"depth": 1}, "Unexpected: block_1/attention/projection, block_1/attention/q"),
        ({"mlp_ratio": 4}, r"Of another shape: block_0/mlp/fc1/bias \(32,\) for \(64"),
        ({"patch_size": 2}, "Of another shape: patch_embedding/projection/kernel"),
        ({"broadcast": "cbs"}, "Missing: block_0/mlp/context_broadcast/scale, block_1"),
        ({"num_register_tokens": 2}, "Missing: token_embedding/position_embedding"),
        ({"layer_scale": 1}, "Missing: block_0/layer_scale/gamma, block_0/mlp/layer_"),
    ],
)
@pytest.mark.any_backend
def test_a_h5_file_takes_exactly_the_arguments_of_its_model(changes, message, source):
    with pytest.raises(ValueError, match=f"{source.h5} {NOT_TOLD}") as error:
        tiny(weights=source.h5, **changes)
    assert re.search(message, str(error.value)), str(error.value)


# Another size of images.


@pytest.mark.parametrize(
    "input_shape, grid", [((16, 8, 3), (4, 2)), ((4, 4, 3), (1, 1))]
)
def test_for_other_images_the_position_embedding_is_resampled(
    input_shape, grid, source
):
    model = keras_cbvit.ViTCB(weights=source.keras, input_shape=input_shape)
    expected = resample_position_embedding(source.values[POSITION], (2, 3), grid)
    assert_same_values(values(model), {**source.values, POSITION: expected})


def test_as_many_patches_in_another_grid_are_resampled_too(source):
    model = keras_cbvit.ViTCB(weights=source.keras, input_shape=(12, 8, 3))
    expected = resample_position_embedding(source.values[POSITION], (2, 3), (3, 2))
    assert np.abs(expected - source.values[POSITION]).max() > 0.1
    assert_same_values(values(model), {**source.values, POSITION: expected})


def test_other_classes_and_another_size_go_together(source_square):
    model = keras_cbvit.ViTCB(
        weights=source_square.keras, input_shape=(8, 16, 3), classes=4
    )
    expected = resample_position_embedding(
        source_square.values[POSITION], (3, 3), (2, 4)
    )
    assert_same_values(
        without(values(model), *HEAD),
        without({**source_square.values, POSITION: expected}, *HEAD),
    )


# Other channels of images.


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.any_backend
def test_for_other_channels_the_filters_are_adapted_by_the_rule_of_timm(
    channels, source
):
    """`adapt_input_conv` of https://github.com/huggingface/pytorch-image-models."""
    model = keras_cbvit.ViTCB(weights=source.keras, input_shape=(8, 12, channels))
    red, green, blue = np.moveaxis(
        source.values[KERNEL].reshape(4, 4, 3, 16), source=2, destination=0
    )
    expected = {
        1: [red + green + blue],
        2: [red * 1.5, green * 1.5],
        4: [each * 0.75 for each in (red, green, blue, red)],
        6: [each * 0.5 for each in (red, green, blue, red, green, blue)],
    }[channels]
    found = values(model)
    kernel = np.stack(expected, axis=2).reshape(-1, 16)
    np.testing.assert_allclose(found[KERNEL], kernel, rtol=1e-5, atol=1e-6)
    assert_same_values(without(found, KERNEL), without(source.values, KERNEL))
    mean = (0.485 + 0.456 + 0.406) / 3
    assert model.spec.mean == pytest.approx((mean,) * channels)
    assert predict(model).shape == (4, 3)


def test_filters_of_other_than_colored_images_are_not_adapted(tmp_path):
    two = {"input_shape": (8, 12, 2), "mean": (0.5, 0.5), "std": (0.5, 0.5)}
    fill(tiny(**two)).save(tmp_path / "two.keras")
    with pytest.raises(ValueError, match="Of another shape: patch_embedding/proj"):
        keras_cbvit.ViTCB(weights=tmp_path / "two.keras", input_shape=(8, 12, 4))


# Other broadcasting.


@pytest.mark.parametrize(
    "place, context, number", [("mlp_end", "mean", 2), ("both", "max", 4)]
)
def test_a_plain_model_becomes_one_whose_scale_starts_at_zero(
    place, context, number, source_plain
):
    model = keras_cbvit.ViTCB(
        weights=source_plain.keras,
        broadcast="cbs",
        broadcast_place=place,
        context=context,
    )
    found = values(model)
    scales = {path for path in found if path.endswith("/scale")}
    assert len(scales) == number
    assert all((found[path] == 0).all() for path in scales)
    assert_same_values(without(found, *scales), source_plain.values)
    # The same function, so it need not be asked for.
    assert_close(predict(model), predict(source_plain.model), atol=1e-6)


def test_scales_are_added_where_the_file_has_none(tmp_path):
    upper = Source(tmp_path, broadcast="cbs", broadcast_blocks=[1])
    model = keras_cbvit.ViTCB(weights=upper.keras, broadcast_blocks="all")
    scale = "block_0/mlp/context_broadcast/scale"
    assert_same_values(without(values(model), scale), upper.values)
    assert (values(model)[scale] == 0).all()
    assert_close(predict(model), predict(upper.model), atol=1e-6)


@pytest.mark.parametrize("broadcast", ["none", "cb"])
def test_a_scale_that_the_model_has_not_is_an_error(broadcast, source_cbs):
    message = (
        "do not match this model; nothing was loaded. Unexpected: "
        "block_0/mlp/context_broadcast, block_1/mlp/context_broadcast"
    )
    with pytest.raises(ValueError, match=message):
        keras_cbvit.ViTCB(weights=source_cbs.keras, broadcast=broadcast)
    with pytest.raises(ValueError, match=message):
        tiny(weights=source_cbs.h5, broadcast=broadcast)


@pytest.mark.parametrize(
    "file, asked, differs",
    [
        ({}, {"broadcast": "none"}, "broadcast='cb'; with broadcast='none' they"),
        ({}, {"broadcast": "cbs"}, "broadcast='cb'; with broadcast='cbs' they"),
        ({}, {"context": "max"}, "context='mean'; with context='max' they"),
        ({"broadcast": "cbs"}, {"context": "token"}, "context='mean'; with context="),
        ({}, {"broadcast_place": "both"}, "broadcast_place='mlp_end'; with broadcast_"),
        ({}, {"broadcast_blocks": [1]}, r"broadcast_blocks='all'; with .*=\(1,\) they"),
        ({}, {"pooling": "avg"}, "pooling='token'; with pooling='avg' they"),
        (
            {"include_preprocessing": False},
            {"include_preprocessing": True},
            "include_preprocessing=False; with include_preprocessing=True they",
        ),
    ],
)
@pytest.mark.any_backend
def test_another_function_of_the_same_weights_has_to_be_asked_for(
    file, asked, differs, tmp_path
):
    source = Source(tmp_path, **file)
    message = f"from a model with {differs}.* or pass allow_other_function=True"
    with pytest.raises(ValueError, match=message):
        keras_cbvit.ViTCB(weights=source.keras, **asked)
    model = keras_cbvit.ViTCB(weights=source.keras, **asked, allow_other_function=True)
    found = {k: v for k, v in values(model).items() if not k.endswith("/scale")}
    expected = {k: v for k, v in source.values.items() if not k.endswith("/scale")}
    assert_same_values(found, expected)
    # It is another function.
    x = images(source.model)
    assert np.abs(predict(model, x) - predict(source.model, x)).max() > 1e-3


@pytest.mark.any_backend
def test_what_changes_nothing_need_not_be_asked_for(source, tmp_path):
    x = images(source.model)
    expected = predict(source.model, x)
    for same in (
        {"broadcast": "cb", "broadcast_blocks": [1, 0]},  # all
        {"remat": True, "drop_path_rate": 0.1},
    ):
        model = keras_cbvit.ViTCB(weights=source.keras, **same)
        assert_close(predict(model, x), expected)
    plain = Source(tmp_path, broadcast="none")
    model = keras_cbvit.ViTCB(
        weights=plain.keras, broadcast_place="both", context="max"
    )
    assert_close(predict(model, x), predict(plain.model, x))


def test_without_the_files_normalization_and_head_images_and_pooling_are_ones_own(
    source,
):
    model = keras_cbvit.ViTCB(weights=source.keras, include_preprocessing=False)
    x = images(source.model)
    normalized = source.model.get_layer("normalization")(x)
    assert_close(predict(model, normalized), predict(source.model, x))
    for own in ({"classes": 5}, {"include_top": False}):
        model = keras_cbvit.ViTCB(weights=source.keras, pooling="avg", **own)
        kept = without(source.values, *HEAD)
        assert_same_values(without(values(model), *HEAD), kept)


def test_a_file_in_another_size_is_of_the_same_function(source):
    with pytest.raises(ValueError, match="with broadcast='none' they compute"):
        keras_cbvit.ViTCB(
            weights=source.keras, broadcast="none", classes=5, input_shape=(4, 4, 3)
        )


# Files that are refused.


@pytest.mark.parametrize(
    "change, message",
    [
        ({"depth": 4}, "depth=2, not 4"),
        ({"depth": 1}, "depth=2, not 1"),
        ({"hidden_dim": 32}, "hidden_dim=16, not 32"),
        ({"num_heads": 4}, "num_heads=2, not 4"),
        ({"mlp_ratio": 4}, "mlp_ratio=2, not 4"),
        ({"patch_size": 2}, "patch_size=4, not 2"),
    ],
)
def test_a_file_of_another_architecture_is_refused(change, message, source):
    (key,) = change
    with pytest.raises(ValueError, match=f"have {message}; remove {key}[,.]"):
        keras_cbvit.ViTCB(weights=source.keras, **change)


@pytest.mark.parametrize("given", [{"num_heads": 4}, {"hidden_dim": 20}])
@pytest.mark.any_backend
def test_what_only_goes_with_a_files_own_numbers_is_judged_by_them(given, tmp_path):
    """`num_heads` need not divide the default `hidden_dim`, and so on."""
    source = Source(tmp_path, hidden_dim=20, num_heads=4)
    loaded = keras_cbvit.ViTCB(weights=source.keras, **given)
    assert loaded.get_config() == source.model.get_config()


def test_a_size_refuses_the_file_of_another(source):
    with pytest.raises(ValueError, match="hidden_dim=16, not 192"):
        keras_cbvit.ViTCB_Ti(weights=source.keras)


@pytest.mark.parametrize("file", ["keras", "h5"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_refused(file, part, source, tmp_path):
    whole = getattr(source, file)
    cut = tmp_path / whole.name
    cut.write_bytes(whole.read_bytes()[: int(part * whole.stat().st_size)])
    with pytest.raises(ValueError, match=f"{cut} is damaged or not a weights file"):
        tiny(weights=cut)


def test_a_keras_file_with_changed_bytes_is_refused(source, tmp_path):
    content = bytearray(source.keras.read_bytes())
    kernel = source.values["block_1/mlp/fc1/kernel"].tobytes()
    content[content.index(kernel)] ^= 255
    damaged = tmp_path / "model.keras"
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match=f"{damaged} is damaged"):
        keras_cbvit.ViTCB(weights=damaged)


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_a_file_that_is_something_else_is_refused(name, tmp_path):
    (tmp_path / name).write_text("<html>Not found</html>")
    with pytest.raises(ValueError, match=f"{name} is damaged or not a weights file"):
        tiny(weights=tmp_path / name)


def test_a_keras_file_without_a_part_is_refused(source, tmp_path):
    for part in ("config.json", "model.weights.h5"):
        path = tmp_path / f"without_{part}.keras"
        with zipfile.ZipFile(source.keras) as whole, zipfile.ZipFile(path, "w") as less:
            for name in set(whole.namelist()) - {part}:
                less.writestr(name, whole.read(name))
        with pytest.raises(ValueError, match="is damaged or not a weights file"):
            keras_cbvit.ViTCB(weights=path)


def test_files_of_another_kind_of_model_are_refused(tmp_path):
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    other.save(tmp_path / "other.keras")
    other.save_weights(tmp_path / "other.weights.h5")
    message = r"other\.keras has a Sequential, not a VisionTransformer"
    with pytest.raises(ValueError, match=message):
        keras_cbvit.ViTCB(weights=tmp_path / "other.keras")
    with pytest.raises(
        ValueError, match=r"other\.weights\.h5 do not match .*; unexpected: dense"
    ):
        tiny(weights=tmp_path / "other.weights.h5")


def test_an_input_shape_that_is_none_is_refused_with_a_sentence(source):
    with pytest.raises(ValueError, match="input_shape=224 must be"):
        keras_cbvit.ViTCB(weights=source.keras, input_shape=224)


@QUANTIZED_FILES
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
@pytest.mark.any_backend
def test_the_file_of_a_quantized_model_is_refused(tmp_path):
    model = tiny()
    model.get_layer("head").quantize("int8")
    model.save(tmp_path / "model.keras")
    message = "has a quantized model; load it with keras_cbvit.load_model"
    with pytest.raises(ValueError, match=message):
        keras_cbvit.ViTCB(weights=tmp_path / "model.keras")


def test_nothing_is_loaded_from_a_file_that_lacks_a_weight(source, tmp_path):
    # A file whose configuration promises more blocks than its weights have.
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(source.keras) as whole, zipfile.ZipFile(path, "w") as less:
        for name in whole.namelist():
            content = whole.read(name)
            if name == "config.json":
                config = json.loads(content)
                config["config"]["spec"]["depth"] = 3
                content = json.dumps(config)
            less.writestr(name, content)
    with pytest.raises(
        ValueError, match="match this model; nothing .* Missing: block_2/"
    ):
        keras_cbvit.ViTCB(weights=path)
    with pytest.raises(ValueError, match="is damaged or not a weights file"):
        keras_cbvit.load_model(path)


# From training to fine-tuning.


def test_fine_tuning_from_a_file_on_other_images_and_classes_learns(source):
    model = keras_cbvit.ViTCB(weights=source.keras, input_shape=(8, 4, 3), classes=2)
    rng = np.random.default_rng(0)
    labels = np.arange(32) % 2
    x = rng.uniform(0, 100, (32, 8, 4, 3)) + 100 * labels[:, None, None, None]
    model.compile(
        keras.optimizers.Adam(3e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    history = model.fit(x, labels, epochs=12, batch_size=32, verbose=0).history
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    assert history["accuracy"][-1] > 0.9


def test_the_tiny_model_is_what_these_tests_think(source):
    assert source.values[POSITION].shape == (1, 7, 16)
    assert TINY["input_shape"] == (8, 12, 3)
    assert_close(source.model.get_layer("head").bias, source.values["head/bias"])


# A whole model.


def test_a_model_is_loaded_as_it_is_in_its_file(source_cbs):
    model = keras_cbvit.load_model(source_cbs.keras)
    assert model.get_config() == source_cbs.model.get_config()
    assert_same_values(values(model), source_cbs.values)
    assert not model.compiled


def test_what_holds_no_model_is_refused(source, tmp_path):
    with pytest.raises(
        ValueError, match=r"model\.weights\.h5 has weights but no model"
    ):
        keras_cbvit.load_model(source.h5)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        keras_cbvit.load_model(tmp_path / "none.keras")
    with pytest.raises(ValueError, match=r"no weights 'upernet_x\.v1'"):
        keras_cbvit.load_model("upernet_x.v1")
    content = source.keras.read_bytes()
    (tmp_path / "half.keras").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"half\.keras is damaged"):
        keras_cbvit.load_model(tmp_path / "half.keras")


class Own(keras.layers.Layer):
    def call(self, inputs):
        return inputs


def test_layers_that_keras_does_not_know_are_named(tmp_path):
    inner = keras.Sequential([keras.Input((3,)), Own()])
    for model in (inner, keras.Sequential([keras.Input((3,)), inner])):
        model.save(tmp_path / "own.keras")
        with pytest.raises(ValueError, match=r"own\.keras has custom objects") as e:
            keras_cbvit.load_model(tmp_path / "own.keras")
        assert "(Could not locate class 'Own');" in str(e.value)
        assert len(str(e.value)) < 300 + len(str(tmp_path))
    with keras.saving.custom_object_scope({"Own": Own}):
        assert keras_cbvit.load_model(tmp_path / "own.keras").built


def test_a_lambda_layer_is_not_called_damaged(tmp_path):
    layers = [keras.Input((3,)), keras.layers.Lambda(lambda x: x + 1)]
    keras.Sequential(layers).save(tmp_path / "lambda.keras")
    with pytest.raises(ValueError, match=r"lambda\.keras has a Lambda .*safe_mode=Fal"):
        keras_cbvit.load_model(tmp_path / "lambda.keras")
