import keras
import numpy as np
import pytest
from keras.applications.imagenet_utils import preprocess_input

from recipes.evaluation.classifiers import as_classifier
from recipes.evaluation.models import load_model
from tests.tiny import fill, images, predict, tiny


def save(path, size=(4, 6), channels=3, outputs=3):
    """Saves a model whose predictions are the means of the channels."""
    inputs = keras.Input((*size, channels))
    means = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(outputs, name="head")(means))
    model.get_layer("head").kernel.assign(np.eye(channels, outputs))
    model.save(path)
    return str(path)


def load_classifier(name, *options, **more):
    return as_classifier(name, load_model(name), *options, **more)


PIXELS = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3)).astype("float32")


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [
        ("none", PIXELS),
        ("unit", PIXELS / 255),
        ("symmetric", preprocess_input(PIXELS.copy(), mode="tf")),
        ("imagenet", preprocess_input(PIXELS.copy(), mode="torch")),
        ("caffe", preprocess_input(PIXELS.copy(), mode="caffe")),
    ],
)
def test_other_models_get_what_keras_applications_give_them(
    tmp_path, normalize, expected
):
    classifier = load_classifier(save(tmp_path / "a.keras"), normalize)
    assert (classifier.image_size, classifier.classes) == ((4, 6), 3)
    assert classifier.class_names is None
    found = predict(classifier.model, PIXELS)
    np.testing.assert_allclose(found, expected.mean(axis=(1, 2)), rtol=1e-4, atol=1e-4)


def test_models_of_this_package_normalize_themselves(tmp_path):
    model = tiny()
    model.save(tmp_path / "a.keras")
    classifier = load_classifier(str(tmp_path / "a.keras"), "symmetric")
    pixels = images(model)
    np.testing.assert_allclose(
        predict(classifier.model, pixels), predict(model, pixels), rtol=1e-5
    )


def test_a_model_of_this_package_that_takes_any_size_gets_the_one_asked_for(tmp_path):
    model = fill(tiny(input_shape=(None, None, 3), position_grid=(2, 3)))
    model.save(tmp_path / "a.keras")
    name = str(tmp_path / "a.keras")
    with pytest.raises(ValueError, match=r"any size; set --image-size"):
        load_classifier(name)
    classifier = load_classifier(name, "unit", image_size=(8, 12))
    assert classifier.image_size == (8, 12)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 8, 12, 3)).astype("float32")
    np.testing.assert_array_equal(
        predict(classifier.model, pixels), predict(model, pixels)
    )


def test_models_of_this_package_without_preprocessing_are_given_what_is_asked_for(
    tmp_path,
):
    model = fill(tiny(include_preprocessing=False))
    model.save(tmp_path / "a.keras")
    classifier = load_classifier(str(tmp_path / "a.keras"), "symmetric")
    pixels = images(model)
    expected = predict(model, preprocess_input(pixels.copy(), mode="tf"))
    np.testing.assert_allclose(predict(classifier.model, pixels), expected, rtol=1e-4)
    assert not np.allclose(expected, predict(model, pixels), rtol=1e-2)


def test_a_model_that_takes_any_size_gets_the_one_asked_for(tmp_path):
    file = save(tmp_path / "a.keras", size=(None, None))
    assert load_classifier(file, image_size=(8, 4)).image_size == (8, 4)
    with pytest.raises(ValueError, match="images of any size; set --image-size"):
        load_classifier(file)


def test_a_run_folder_holds_a_classifier(tmp_path):
    save(tmp_path / "model.keras")
    classifier = load_classifier(str(tmp_path))
    assert (classifier.name, classifier.image_size) == (str(tmp_path), (4, 6))


def test_what_is_not_a_classifier_of_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"inputs of shape \(None, 4, 6, 1\), not"):
        load_classifier(save(tmp_path / "gray.keras", channels=1))
    with pytest.raises(ValueError, match=r"returns \(None, 1\), not predictions"):
        load_classifier(save(tmp_path / "one.keras", outputs=1))
    with pytest.raises(FileNotFoundError, match="nothing.* does not exist"):
        load_classifier(str(tmp_path / "nothing.keras"))
    (tmp_path / "damaged.keras").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"damaged\.keras"):
        load_classifier(str(tmp_path / "damaged.keras"))


class Own(keras.layers.Layer):
    def call(self, inputs):
        return inputs


def test_layers_that_keras_does_not_know_are_named(tmp_path):
    inputs = keras.Input((4, 6, 3))
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(Own()(inputs)))
    keras.Model(inputs, outputs).save(tmp_path / "a.keras")
    with pytest.raises(ValueError, match=r"a\.keras has custom objects .*class 'Own'"):
        load_classifier(str(tmp_path / "a.keras"))
