"""Models know the names of their classes, and so do their files."""

import keras
import numpy as np
import pytest

import keras_cbvit
from keras_cbvit.pretrained.publishing import in_float32
from tests.models.test_segmentation import pixels, upernet
from tests.tiny import QUANTIZED_FILES, fill, first_on_each_backend, predict, tiny

NAMES = ("cat", "dog", "eel")


def named(model):
    model.class_names = NAMES
    return model


@pytest.mark.parametrize("build", first_on_each_backend([tiny, upernet]))
def test_names_come_back_from_a_file(build, tmp_path):
    model = build()
    assert model.class_names is None
    for names in (None, NAMES):
        model.class_names = names
        model.save(tmp_path / "model.keras")
        for load in (keras.saving.load_model, keras_cbvit.load_model):
            copy = load(tmp_path / "model.keras")
            assert type(copy) is type(model)
            assert copy.class_names == names
    assert in_float32(model).class_names == NAMES
    assert type(model).from_config(model.get_config()).class_names == NAMES


@pytest.mark.parametrize("build", [tiny, upernet])
@pytest.mark.any_backend
def test_names_are_checked(build):
    model = build()
    model.class_names = np.array(["cat", "dog ", "e\u0301"])
    assert model.class_names == ("cat", "dog", "\u00e9")
    with pytest.raises(ValueError, match="has 2 names, but the model predicts 3 class"):
        model.class_names = ["cat", "dog"]
    with pytest.raises(ValueError, match="has 'cat' twice"):
        model.class_names = ["cat", "dog", "cat"]
    assert model.class_names == ("cat", "dog", "\u00e9")
    model.class_names = None
    assert model.class_names is None


def test_a_model_without_a_head_has_no_names():
    with pytest.raises(ValueError, match="has 3 names, but the model predicts 0 class"):
        named(tiny(include_top=False, classes=None))


@pytest.mark.any_backend
def test_names_come_along_with_the_head_and_not_without(tmp_path):
    named(fill(tiny())).save(tmp_path / "model.keras")

    def load(**changes):
        return keras_cbvit.ViTCB(weights=tmp_path / "model.keras", **changes)

    for changes in ({}, {"classes": 3}, {"input_shape": (16, 8, 3)}):
        model = load(**changes)
        assert model.class_names == NAMES
        model.save(tmp_path / "tuned.keras")
        assert keras_cbvit.load_model(tmp_path / "tuned.keras").class_names == NAMES
    for changes in ({"classes": 4}, {"include_top": False}):
        assert load(**changes).class_names is None


@pytest.mark.parametrize("build", first_on_each_backend([tiny, upernet]))
def test_a_copy_by_the_configuration_is_of_the_same_class(build):
    model = named(build())
    copy = type(model).from_config(model.get_config())
    assert (type(copy), copy.class_names) == (type(model), NAMES)
    # Keras's clone is a plain functional model, which predicts the same.
    clone = keras.models.clone_model(model)
    x = pixels(8, 12) if build is tiny else pixels()
    for each in (copy, clone):
        each.set_weights(model.get_weights())
        np.testing.assert_array_equal(predict(each, x), predict(model, x))


@pytest.mark.slow
@QUANTIZED_FILES
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
@pytest.mark.any_backend
def test_names_stay_when_a_model_is_quantized(tmp_path):
    model = named(fill(tiny(depth=1)))
    model.quantize("int8")
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").class_names == NAMES
    segmenter = named(upernet())
    before = predict(segmenter, pixels())
    segmenter.quantize("int8")
    assert segmenter.class_names == NAMES
    assert np.abs(predict(segmenter, pixels()) - before).max() < 0.2 * abs(before).max()
