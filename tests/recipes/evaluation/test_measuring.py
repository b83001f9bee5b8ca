import dataclasses
import itertools

import keras
import numpy as np
import pytest

from recipes.data.conditions import occlude
from recipes.data.images import Images, Split
from recipes.evaluation import measure
from recipes.options.classification import Data
from tests.recipes.evaluation.trained import classifier, digits
from tests.tiny import assert_same_values, values

SHADES = [0, 128, 255]


class Brightness(keras.layers.Layer):
    """Probabilities of the three shades, by the middle pixel."""

    def call(self, inputs):
        middle = keras.ops.cast(inputs[:, 4, 4, :1], "float32")
        distance = keras.ops.abs(
            middle - keras.ops.convert_to_tensor(SHADES, "float32")
        )
        return keras.ops.softmax(-distance / 10)


@pytest.fixture(scope="module")
def brightness():
    images = keras.Input((8, 8, 3))
    return keras.Model(images, Brightness()(images))


def split_of(shades, labels):
    images = np.stack([np.full((8, 8, 3), shade, "uint8") for shade in shades])
    return Split(images, np.array(labels))


@pytest.mark.parametrize(
    ("under", "batch_size"),
    [*(("clean", size) for size in (1, 2, 5, 64)), ("fgsm", 2), ("pgd", 2)],
)
def test_every_image_is_counted_once(brightness, under, batch_size):
    split = split_of([0, 255, 128, 0, 128], [0, 2, 1, 1, 0])
    found = measure(brightness, split, under, 1.0, batch_size)
    assert (found["images"], found["right"], found["top1"]) == (5, 3, 0.6)
    # Two of the five are certain and wrong.
    assert found["ece"] == pytest.approx(0.4, abs=1e-3)


def shares(activation):
    """A model that gives 0.2, 0.3 and 0.5 of any image, then an activation."""
    images = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(images)
    dense = keras.layers.Dense(3, kernel_initializer="zeros", activation=activation)
    model = keras.Model(images, dense(x))
    dense.bias.assign([0.2, 0.3, 0.5])
    return model


@pytest.mark.parametrize("under", ["clean", "occlusion", "fgsm", "pgd"])
@pytest.mark.any_backend
def test_what_a_model_is_decides_whether_it_gives_logits(under):
    """Not the values: these logits are as probabilities are."""
    split = split_of([0, 128, 255], [0, 1, 2])
    values = np.array([0.2, 0.3, 0.5])
    softmax = np.exp(values) / np.exp(values).sum()
    sigmoid = 1 / (1 + np.exp(-values))
    for activation, expected in (
        (None, softmax),
        ("softmax", softmax),
        ("sigmoid", sigmoid),
    ):
        found = measure(shares(activation), split, under)
        assert found["loss"] == pytest.approx(-np.log(expected).mean(), rel=1e-5)
        ece = abs(expected[2] - 1 / 3)
        assert found["ece"] == pytest.approx(ece, rel=1e-5)


def test_images_without_a_right_class_do_not_count(brightness):
    right = [[1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 1]]
    split = split_of([0, 0, 0, 255, 128], np.array(right, bool))
    found = measure(brightness, split, batch_size=2)
    assert (found["images"], found["right"]) == (3, 2)
    with pytest.raises(ValueError, match="None of the images to evaluate has a label"):
        measure(brightness, split_of([0, 128], np.zeros((2, 3), bool)))


def test_occlusion_is_the_middle_112_of_224_pixels():
    image = np.random.default_rng(0).integers(1, 256, (2, 224, 224, 3), "uint8")
    found = occlude(image)
    black = (found == 0).all(axis=-1)
    assert black.sum() == 2 * 112 * 112
    assert black[:, 56:168, 56:168].all()
    np.testing.assert_array_equal(found[~black], image[~black])
    assert image.min() == 1


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [((8, 8), (2, 6), (2, 6)), ((7, 10), (2, 5), (2, 7)), ((32, 16), (8, 24), (4, 12))],
)
def test_occlusion_has_half_the_sides_of_any_image(size, rows, columns):
    expected = np.ones((1, *size, 3), "uint8")
    expected[:, slice(*rows), slice(*columns)] = 0
    np.testing.assert_array_equal(occlude(np.ones((1, *size, 3), "uint8")), expected)


def test_what_is_in_the_middle_is_not_seen_under_occlusion(brightness):
    split = split_of([255, 128, 0], [2, 1, 0])
    assert measure(brightness, split)["right"] == 3
    assert measure(brightness, split, "occlusion")["right"] == 1
    assert split.images[0].min() == 255


def test_accuracy_falls_under_attack_and_more_so_as_it_grows():
    model, split = classifier(), digits().test
    before = values(model)
    clean = measure(model, split)
    assert clean["top1"] > 0.9
    for attack in ("fgsm", "pgd"):
        assert measure(model, split, attack, 0.0) == pytest.approx(clean, rel=1e-6)
    fgsm = [measure(model, split, "fgsm", epsilon) for epsilon in (8, 16, 32)]
    for weaker, stronger in itertools.pairwise([clean, *fgsm]):
        assert weaker["right"] > stronger["right"] + 10
        assert weaker["loss"] < stronger["loss"]
    pgd = measure(model, split, "pgd", 32)
    assert pgd["loss"] > fgsm[-1]["loss"]
    assert pgd["right"] < fgsm[-1]["right"]
    assert_same_values(values(model), before)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_an_attack_does_not_depend_on_the_batches(attack):
    model, split = classifier(), digits().test.first(120)
    expected = measure(model, split, attack, 8.0)
    found = measure(model, split, attack, 8.0, batch_size=7)
    assert found == pytest.approx(expected, rel=1e-4)
    # Pictures that are decoded at each use.
    data = Data(image_size=(8, 8))
    split = Split(Images(list(split.images), data), split.labels)
    assert measure(model, split, attack, 8.0) == pytest.approx(expected, rel=1e-4)


def test_what_makes_no_sense_is_refused(brightness):
    split = split_of([0, 128], [0, 1])
    with pytest.raises(ValueError, match="under='night' must be one of clean, occl"):
        measure(brightness, split, "night")
    with pytest.raises(ValueError, match=r"epsilon=-1\.0 must not be negative"):
        measure(brightness, split, "fgsm", -1.0)
    with pytest.raises(ValueError, match="labels range from 0 to 3, but the 3 classes"):
        measure(brightness, dataclasses.replace(split, labels=np.array([0, 3])))
    with pytest.raises(ValueError, match="labels range from 0 to 3, but the 3 classes"):
        measure(brightness, dataclasses.replace(split, labels=np.ones((2, 4), bool)))
