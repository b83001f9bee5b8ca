import inspect
import json
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_cbvit
from keras_cbvit import FeaturePyramid, SegmentationModel, feature_pyramid
from keras_cbvit.models.registry import SIZES
from tests.compare import assert_close, assert_equal, dtype_of
from tests.tiny import (
    assert_same_values,
    fill,
    first_on_each_backend,
    predict,
    tiny,
    values,
)
from tests.upernet import reference

VIT_PARAMETERS = json.loads(
    (Path(__file__).parents[1] / "data" / "sizes.json").read_text()
)
BLOCKS = (0, 2, 3, 4)


def vit(**changes):
    arguments = {"input_shape": (16, 24, 3), "depth": 5, "hidden_dim": 8}
    headless = {"include_top": False, "classes": None}
    return tiny(**arguments, **headless, **changes)


def upernet(vit_changes=None, **arguments):
    """A small model whose weights are all random, variances not negative."""
    backbone = feature_pyramid(vit(**(vit_changes or {})), BLOCKS)
    model = fill(SegmentationModel(backbone, 3, 4, **arguments))
    for weight in model.weights:
        if weight.path.endswith("moving_variance"):
            weight.assign(np.abs(weight.numpy()) + 0.5)
    return model


def pixels(height=16, width=24, count=2):
    rng = np.random.default_rng(1)
    return rng.uniform(0, 255, (count, height, width, 3)).astype("float32")


@pytest.fixture(scope="module")
def model():
    return upernet()


# The backbone.


def test_maps_are_the_tokens_of_the_named_blocks_without_a_norm():
    source = fill(vit())
    backbone = feature_pyramid(source, BLOCKS)
    blocks = [source.get_layer(f"block_{i}").output for i in BLOCKS]
    tokens = keras.Model(source.input, blocks)(pixels())
    maps = [backbone.get_layer(f"map_{i}").output for i in BLOCKS]
    found = keras.Model(backbone.input, maps)(pixels())
    for token, found_map in zip(tokens, found, strict=True):
        token = keras.ops.convert_to_numpy(token)
        assert_equal(found_map, token[:, 1:].reshape(2, 4, 6, 8))
    assert "norm" not in {layer.name for layer in backbone.layers}


def test_maps_are_at_four_scales():
    shapes = [y.shape for y in feature_pyramid(vit(), BLOCKS)(pixels())]
    assert [tuple(shape) for shape in shapes] == [
        (2, 16, 24, 8),
        (2, 8, 12, 8),
        (2, 4, 6, 8),
        (2, 2, 3, 8),
    ]


def test_the_paper_takes_the_blocks_3_5_7_and_11():
    blocks = inspect.signature(feature_pyramid).parameters["blocks"].default
    assert blocks == (3, 5, 7, 11)


@pytest.mark.parametrize(
    "blocks", [(0, 1, 2), (0, 2, 1, 3), (0, 1, 2, 5), (0, 1, 1, 2)]
)
@pytest.mark.any_backend
def test_blocks_that_are_not_there_are_refused(blocks):
    message = (
        "blocks=.* must be (ascending indices of the 5 blocks, 0 to 4|indices of four "
        "blocks, not 3)"
    )
    with pytest.raises(ValueError, match=message):
        feature_pyramid(vit(), blocks)
    with pytest.raises(ValueError, match=message):
        FeaturePyramid(vit(), blocks)


def test_another_model_has_no_pyramid():
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Rescaling(1.0)])
    for build in (feature_pyramid, FeaturePyramid):
        with pytest.raises(ValueError, match="not a VisionTransformer"):
            build(model)


@pytest.mark.parametrize("prefix_position_embedding", [True, False])
@pytest.mark.any_backend
def test_register_tokens_are_left_out_of_the_maps(prefix_position_embedding):
    source = vit(
        num_register_tokens=3, prefix_position_embedding=prefix_position_embedding
    )
    pyramid = feature_pyramid(fill(source), BLOCKS)
    tokens = keras.Model(source.input, source.blocks[2].output)(pixels())
    tokens = keras.ops.convert_to_numpy(tokens)
    assert tokens.shape == (2, 4 + 4 * 6, 8)
    found = keras.Model(pyramid.input, pyramid.get_layer("map_2").output)(pixels())
    assert_equal(found, tokens[:, 4:].reshape(2, 4, 6, 8))


def test_a_pyramid_is_a_part_of_the_model_it_is_made_of():
    source = fill(vit())
    pyramid = FeaturePyramid(source, BLOCKS)
    assert pyramid.get_layer("block_2") is source.get_layer("block_2")
    assert source.pyramid_outputs([1, 3])[0].shape == (None, 4, 6, 8)
    copied = feature_pyramid(source, BLOCKS)
    assert copied.get_layer("block_2") is not source.get_layer("block_2")
    found, expected = (
        keras.Model(model.input, model.get_layer("map_3").output)(pixels())
        for model in (copied, pyramid)
    )
    assert_equal(found, keras.ops.convert_to_numpy(expected))
    with pytest.raises(ValueError, match=r"blocks=\[5\] must be ascending indices"):
        source.pyramid_outputs([5])


@pytest.mark.parametrize("build", [feature_pyramid, FeaturePyramid])
@pytest.mark.any_backend
def test_a_pyramid_comes_back_from_its_file(build, tmp_path):
    pyramid = build(fill(vit(broadcast="cbs")), BLOCKS)
    pyramid.save(tmp_path / "pyramid.keras")
    copy = keras.saving.load_model(tmp_path / "pyramid.keras")
    assert type(copy) is FeaturePyramid
    assert copy.get_config() == pyramid.get_config()
    assert_same_values(values(copy), values(pyramid))
    for one, other in zip(copy(pixels()), pyramid(pixels()), strict=True):
        assert_equal(one, keras.ops.convert_to_numpy(other))


# The model.


def test_every_pixel_gets_logits_resized_from_the_head(model):
    logits = predict(model, pixels())
    assert logits.shape == (2, 16, 24, 3)
    head = keras.Model(model.input, model.get_layer("uper_head").output)
    small = predict(head, pixels())
    assert small.shape == (2, 16, 24, 3)  # patches of 4 pixels: a stride of 1
    assert_close(logits, small, atol=1e-5)


@pytest.mark.parametrize("size", first_on_each_backend([(20, 12), (8, 8), (24, 40)]))
def test_images_of_another_size_are_as_of_a_model_built_for_it(size, tmp_path):
    source = fill(vit())
    source.save(tmp_path / "vit.keras")
    other = keras_cbvit.ViTCB(
        weights=tmp_path / "vit.keras", input_shape=(*size, 3), include_top=False
    )
    found, expected = (
        SegmentationModel(feature_pyramid(model, BLOCKS), 3, 4)
        for model in (source, other)
    )
    for weight, value in zip(expected.weights, found.get_weights(), strict=True):
        if "position" not in weight.path:
            weight.assign(value)
    y = found.predict(pixels(*size), verbose=0)
    assert y.shape == (2, *size, 3)
    assert_close(y, predict(expected, pixels(*size)), atol=1e-5)


def test_any_backbone_of_four_maps_will_do():
    images = x = keras.Input((None, None, 1))
    maps = []
    for channels in (2, 3, 4, 5):
        x = keras.layers.Conv2D(channels, 3, strides=2, padding="same")(x)
        maps.append(x)
    model = SegmentationModel(keras.Model(images, maps), 3, 4)
    for size in ((32, 32), (33, 50)):
        y = model.predict(np.zeros((1, *size, 1), "float32"), verbose=0)
        assert y.shape == (1, *size, 3)


@pytest.mark.parametrize("activation", first_on_each_backend(["softmax", None]))
def test_it_gives_logits_or_probabilities_in_float32(activation):
    model = upernet(
        {"dtype": "mixed_bfloat16"},
        classifier_activation=activation,
        dtype="mixed_bfloat16",
    )
    assert dtype_of(model.get_layer("uper_head").output) == "bfloat16"
    y = predict(model, pixels())
    assert y.dtype == "float32"
    wide = predict(upernet(classifier_activation=activation), pixels())
    assert 1e-6 < np.abs(y - wide).max() < 0.1 * np.abs(wide).max()
    sums = y.sum(axis=-1)
    assert (np.abs(sums - 1) < 1e-5).all() == (activation == "softmax")


def test_a_file_holds_backbone_and_head(model, tmp_path):
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert_same_values(values(copy), values(model))
    assert_equal(predict(copy, pixels()), predict(model, pixels()))
    copy.with_auxiliary_head()


@pytest.mark.any_backend
def test_a_trained_model_gives_its_backbone_to_one_with_other_classes(model, tmp_path):
    model.save(tmp_path / "upernet.keras")
    trained = keras_cbvit.load_model(tmp_path / "upernet.keras")
    backbone = keras.Model(trained.input, trained.get_layer("uper_head").input)
    other = SegmentationModel(backbone, 5, 4)
    assert predict(other, pixels()).shape == (2, 16, 24, 5)
    found, expected = values(other), values(model)
    kept = [name for name in expected if not name.startswith("uper_head")]
    assert "block_4/mlp/fc2/kernel" in kept
    assert_same_values(*({name: v[name] for name in kept} for v in (found, expected)))


def test_weights_are_named_by_their_path(model):
    found = set(values(model))
    assert found >= {
        "patch_embedding/projection/kernel",
        "token_embedding/position_embedding",
        "block_4/mlp/fc1/kernel",
        "feature_scales/up4_first/kernel",
        "feature_scales/norm/gamma",
        "uper_head/pyramid_pooling/projection_6/convolution/kernel",
        "uper_head/pyramid_pooling/fusion/norm/moving_mean",
        "uper_head/lateral_2/convolution/kernel",
        "uper_head/output_0/convolution/kernel",
        "uper_head/head/convolution/norm/beta",
        "uper_head/head/classifier/bias",
    }
    assert len(found) == len(model.weights)


# Training.


@pytest.mark.any_backend
def test_the_auxiliary_head_is_trained_with_the_model_and_left_behind(tmp_path):
    model = upernet({"drop_path_rate": 0.1})
    training = model.with_auxiliary_head(5)
    assert {k: tuple(v.shape) for k, v in training(pixels()).items()} == {
        "predictions": (2, 16, 24, 3),
        "auxiliary": (2, 16, 24, 3),
    }
    before = values(training)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    training.compile(
        keras.optimizers.Adam(1e-2),
        loss={"predictions": cross_entropy, "auxiliary": cross_entropy},
        loss_weights={"predictions": 1.0, "auxiliary": 0.4},
    )
    labels = np.random.default_rng(0).integers(0, 3, (2, 16, 24))
    labels = {"predictions": labels, "auxiliary": labels}
    history = training.fit(pixels(), labels, verbose=0).history
    assert history["loss"][0] == pytest.approx(
        history["predictions_loss"][0] + 0.4 * history["auxiliary_loss"][0], rel=1e-5
    )
    after = values(training)
    assert [path for path in after if (after[path] == before[path]).all()] == []
    own = values(model)
    assert_same_values(own, {path: after[path] for path in own})
    left_behind = {path.split("/")[0] for path in after.keys() - own.keys()}
    assert left_behind == {"auxiliary_head"}
    assert_equal(training(pixels())["predictions"], predict(model, pixels()))

    training.save(tmp_path / "training.keras")
    copy = keras.saving.load_model(tmp_path / "training.keras")
    assert_same_values(values(copy), after)


def test_the_auxiliary_head_is_on_the_third_map():
    model = upernet(classifier_activation="softmax")
    training = model.with_auxiliary_head(5)
    third = keras.Model(model.input, model.get_layer("uper_head").input[2])
    logits = training.get_layer("auxiliary_head")(third(pixels()))
    assert logits.shape[1:3] == (4, 6)
    found = training(pixels())["auxiliary"]
    resized = keras.ops.image.resize(logits, (16, 24), data_format="channels_last")
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(resized))
    assert_close(found, expected, atol=1e-5)


def test_channels_of_an_auxiliary_head_are_checked(model):
    with pytest.raises(ValueError, match="channels=0 must be a whole number of at"):
        model.with_auxiliary_head(0)


# The sizes.


@pytest.mark.parametrize(
    "builder, size",
    [
        (keras_cbvit.UperNet_ViTCB_Ti, "Ti"),
        (keras_cbvit.UperNet_ViTCB_S, "S"),
        (keras_cbvit.UperNet_ViTCB_B, "B"),
    ],
)
@pytest.mark.any_backend
def test_sizes_have_the_parameters_of_pytorch(builder, size):
    model = builder(classes=150)
    width = SIZES[size.lower()]["hidden_dim"]
    # Without head and norm; 32x32 positions for 14x14.
    own = VIT_PARAMETERS[size]["params"] - 1000 * (width + 1) - 2 * width
    own += (1024 - 196) * width
    head, auxiliary = reference()[f"parameters/{size}"]

    def trainable(model):
        return sum(np.prod(weight.shape) for weight in model.trainable_weights)

    assert model.name == f"upernet_vitcb_{size.lower()}"
    assert trainable(model) == own + head
    assert trainable(model.with_auxiliary_head()) == own + head + auxiliary


@pytest.fixture
def small_ti(monkeypatch):
    numbers = {"hidden_dim": 8, "depth": 12, "num_heads": 2, "mlp_ratio": 2}
    monkeypatch.setitem(SIZES, "ti", numbers)


@pytest.mark.any_backend
def test_it_starts_from_a_classification_models_weights_at_another_size(
    small_ti, tmp_path
):
    arguments = {"input_shape": (8, 8, 3), "patch_size": 4, "broadcast": "cbs"}
    source = fill(keras_cbvit.ViTCB_Ti(classes=5, **arguments))
    source.save(tmp_path / "vit.keras")
    model = keras_cbvit.UperNet_ViTCB_Ti(
        classes=3, weights=tmp_path / "vit.keras", input_shape=(16, 12, 3)
    )
    expected = keras_cbvit.ViTCB_Ti(
        weights=tmp_path / "vit.keras",
        input_shape=(16, 12, 3),
        include_top=False,
    )
    expected, found = values(expected), values(model)
    assert expected["token_embedding/position_embedding"].shape == (1, 13, 8)
    left_out = {path for path in expected if path not in found}
    assert left_out == {"norm/gamma", "norm/beta"}
    copied = expected.keys() - left_out
    assert_same_values(
        {path: found[path] for path in copied},
        {path: expected[path] for path in copied},
    )
    assert predict(model, pixels(16, 12)).shape == (2, 16, 12, 3)


@pytest.mark.any_backend
def test_a_size_takes_other_arguments_of_its_vision_transformer(small_ti):
    model = keras_cbvit.UperNet_ViTCB_Ti(
        3,
        input_shape=(8, 12, 3),
        patch_size=4,
        broadcast="cbs",
        drop_path_rate=0.2,
        dtype="mixed_bfloat16",
        classifier_activation="softmax",
        name="mine",
    )
    assert model.name == "mine"
    assert model.get_layer("block_11").drop_path_rate == 0.2
    assert "block_3/mlp/context_broadcast/scale" in values(model)
    assert model.get_layer("uper_head").compute_dtype == "bfloat16"
    assert model.get_layer("uper_head").channels == 192
    assert model.get_layer("predictions").activation is keras.activations.softmax


# Bad input.


@pytest.mark.any_backend
def test_images_that_patches_do_not_divide_are_refused(model, small_ti):
    message = r"input_shape=\(16, 18, 3\) must have .* multiples of patch_size=4"
    with pytest.raises(ValueError, match=message):
        keras_cbvit.UperNet_ViTCB_Ti(3, input_shape=(16, 18, 3), patch_size=4)
    with pytest.raises(
        ValueError, match="patch_size=4 does not divide the size of the images, 16x18"
    ):
        model(pixels(16, 18))


@pytest.mark.parametrize(
    "argument", ["include_top", "pooling", "input_tensor", "hidden_dim", "depth"]
)
@pytest.mark.any_backend
def test_what_a_size_decides_or_has_no_use_for_is_refused(argument):
    with pytest.raises(
        TypeError, match=f"{argument} is not an argument of UperNet_ViTCB_S"
    ):
        keras_cbvit.UperNet_ViTCB_S(3, **{argument: None})
    with pytest.raises(TypeError, match="unexpected keyword argument 'pach_size'"):
        keras_cbvit.UperNet_ViTCB_S(3, pach_size=16)


@pytest.mark.any_backend
def test_weights_of_another_function_have_to_be_asked_for(tmp_path):
    arguments = {"hidden_dim": 8, "num_heads": 2, "patch_size": 4, "depth": 4}
    source = keras_cbvit.ViTCB(
        **arguments, input_shape=(16, 24, 3), broadcast="none", classes=2
    )
    source.save(tmp_path / "vit.keras")
    given = {"weights": tmp_path / "vit.keras", "broadcast": "cb", "blocks": range(4)}
    with pytest.raises(ValueError, match="with broadcast='cb' they compute another"):
        keras_cbvit.UperNet_ViTCB(3, 4, input_shape=(16, 24, 3), **given)
    model = keras_cbvit.UperNet_ViTCB(
        3, 4, input_shape=(16, 24, 3), **given, allow_other_function=True
    )
    found, expected = values(model), values(source)
    kept = [path for path in expected if path.startswith("block_")]
    assert len(kept) == 4 * 12
    assert_same_values(*({path: v[path] for path in kept} for v in (found, expected)))


def backbone(*maps):
    inputs = keras.Input((32, 32, 3))
    pools = [keras.layers.AveragePooling2D(size)(inputs) for size in maps]
    return keras.Model(inputs, pools, name="mine")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((None, 3, 4), "backbone must be a functional keras.Model .* not None"),
        ((keras.layers.Dense(1), 3, 4), "backbone must be a functional keras.Model"),
        ((backbone(2, 4, 8), 3, 4), "backbone='mine' has outputs of shapes .* four"),
        ((backbone(2, 8, 4, 16), 3, 4), "backbone='mine' .* requires the finest first"),
        ((backbone(2, 4, 8, 16), 0, 4), "classes=0 must be a whole number of at least"),
        ((backbone(2, 4, 8, 16), 3, 1.5), "channels=1.5 must be a whole number"),
    ],
)
def test_what_cannot_work_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SegmentationModel(*arguments)


def test_outputs_that_are_no_maps_are_refused():
    with pytest.raises(ValueError, match="four feature maps of shape"):
        SegmentationModel(tiny(), 3, 4)
