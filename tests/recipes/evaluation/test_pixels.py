import types

import keras
import numpy as np
import pytest

from recipes.data.segmentation.pairs import IGNORED, Pairs
from recipes.evaluation.pixels import (
    confusion_matrix,
    describe_omitted,
    largest,
    measure,
    measures,
)


def test_a_confusion_matrix_counts_truth_by_row_and_prediction_by_column():
    truth = [[0, 0, 1], [2, IGNORED, 1]]
    prediction = [[0, 1, 1], [0, 2, 1]]
    assert confusion_matrix(truth, prediction, 3).tolist() == [
        [1, 1, 0],
        [0, 2, 0],
        [1, 0, 0],
    ]


def test_the_measures_of_a_matrix_made_by_hand():
    found = measures([[50, 10, 0], [5, 25, 0], [0, 10, 100]])
    # Class 0: 50 / (60 + 55 - 50), class 1: 25 / (30 + 45 - 25), class 2: 100 / 110.
    assert found["class_iou"] == pytest.approx([50 / 65, 0.5, 100 / 110])
    assert found["mean_iou"] == pytest.approx((50 / 65 + 0.5 + 100 / 110) / 3)
    assert found["pixel_accuracy"] == pytest.approx(175 / 200)
    assert found["pixels"] == 200
    # Class 2 has 110 of the 200 pixels; predicted everywhere, the IoU of two is 0.
    assert found["majority_pixel_accuracy"] == pytest.approx(110 / 200)
    assert found["majority_mean_iou"] == pytest.approx(110 / 200 / 3)


def test_a_class_that_is_nowhere_is_left_out_of_the_mean():
    found = measures([[3, 0, 1], [0, 0, 0], [0, 0, 4]])
    assert found["class_iou"] == [0.75, None, 0.8]
    assert found["mean_iou"] == pytest.approx(0.775)
    assert found["majority_mean_iou"] == pytest.approx(4 / 8 / 2)
    assert found["classes_counted"] == 2
    assert describe_omitted(found, ("sky", "pole", "car")) == (
        "mean IoU over 2 of 3 classes; neither labels nor predictions contain pole"
    )


def test_classes_without_pixels_are_told_apart():
    # Class 1 is only predicted, 2 only labeled, 3 neither.
    found = measures([[3, 1, 0, 0], [0] * 4, [0, 2, 0, 0], [0] * 4])
    assert (found["not_labeled"], found["never_predicted"]) == ([1, 3], [2, 3])
    assert found["classes_counted"] == 3
    assert found["class_iou"] == [0.75, 0, 0, None]
    assert found["mean_iou"] == 0.25
    everywhere = measures(np.eye(4))
    assert (everywhere["not_labeled"], everywhere["never_predicted"]) == ([], [])
    assert describe_omitted(everywhere, [*"abcd"]) is None


def test_a_class_that_is_only_predicted_or_only_there_counts_as_0():
    assert measures([[3, 1], [0, 0]])["class_iou"] == [0.75, 0]
    assert measures([[3, 0], [1, 0]])["class_iou"] == [0.75, 0]


def test_pixels_that_do_not_count_change_nothing():
    truth = np.array([0, 1, IGNORED, IGNORED])
    one, other = (confusion_matrix(truth, [0, 1, *x], 2) for x in ((0, 1), (1, 0)))
    assert one.tolist() == other.tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="None of the pixels to evaluate is labeled"):
        measures(confusion_matrix([IGNORED], [0], 2))


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        ([0, 1], [0], r"truth has shape \(2,\), but prediction has shape \(1,\)"),
        ([0, 2], [0, 1], "truth has classes from 0 to 2; with 2 classes, they must"),
        ([0, 1], [0, 2], "prediction has classes from 0 to 2"),
        ([0, -1], [0, 1], "truth has classes from -1 to 0"),
    ],
)
def test_what_makes_no_sense_is_refused(truth, prediction, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(truth, prediction, 2)


def test_logits_are_resized_before_the_class_is_taken():
    logits = np.array([[[1, 0, -9], [0, 2, -9]]], "float32")
    # Bilinear from 2 to 4 columns: class 0 has 1, .75, .25, 0, class 1 0, .5, 1.5, 2.
    assert largest(logits, (1, 4)).tolist() == [[0, 0, 1, 1]]
    assert largest(logits, (1, 2)).tolist() == [[0, 1]]
    assert largest(np.zeros((1, 2, 3), "float32"), (2, 2)).tolist() == [[0, 0], [0, 0]]


def pairs_of(number, sizes=((8, 8), (6, 9), (10, 4))):
    """Pictures whose red says the class, but for a strip, and some ignored pixels."""
    random = np.random.default_rng(0)
    images, labels = [], []
    for i in range(number):
        height, width = sizes[i % len(sizes)]
        truth = random.integers(0, 3, (height, width), dtype="uint8")
        image = np.zeros((height, width, 3), "uint8")
        image[..., 0] = 100 * truth
        image[:2, :, 0] = 0
        truth[:, -1] = 11
        images.append(image)
        labels.append(truth)
    return Pairs(images, labels, 3, 11, "image {}".format, "labels {}".format)


class Told:
    """In the place of a model: logits that are largest for the class red tells."""

    layers = (types.SimpleNamespace(patch_size=4),)

    def __init__(self):
        self.batches = []

    def predict(self, images, batch_size, verbose):
        self.batches.append(images.shape)
        classes = np.rint(images[..., 0] / 100).clip(0, 2).astype(int)
        return np.eye(3, dtype="float32")[classes]


def by_hand(pairs):
    """The confusion matrix, pixel after pixel."""
    found = np.zeros((3, 3), int)
    for image, labels in pairs:
        predicted = np.asarray(image)[..., 0] // 100
        for place in np.ndindex(labels.shape):
            if labels[place] != IGNORED:
                found[labels[place], predicted[place]] += 1
    return found


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7, 100])
def test_any_number_of_pictures_in_any_batches_measures_each_pixel_once(batch_size):
    pairs = pairs_of(7, sizes=((8, 8),))
    model = Told()
    found = measure(model, pairs, (8, 8), batch_size)
    assert found == {"images": 7, **measures(by_hand(pairs))}
    assert {shape[0] for shape in model.batches} == {batch_size}


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_pictures_of_different_sizes_are_padded_to_whole_patches(batch_size):
    pairs = pairs_of(7, sizes=((8, 8), (8, 24), (24, 8)))
    model = Told()
    # A short side of 8 leaves each as it is.
    found = measure(model, pairs, (8, 64), batch_size)
    assert found == {"images": 7, **measures(by_hand(pairs))}
    assert {shape[1:3] for shape in model.batches} == {(16, 16), (16, 32), (32, 16)}


@pytest.mark.parametrize(
    ("patch_size", "sides"),
    [(8, (16, 32)), (16, (16, 32)), (14, (28, 28)), (32, (32,) * 2)],
)
def test_patches_divide_what_pictures_are_padded_to(patch_size, sides):
    model = Told()
    model.layers = (types.SimpleNamespace(patch_size=patch_size),)
    measure(model, pairs_of(1, sizes=((10, 24),)), (10, 64), batch_size=1)
    assert model.batches == [(1, *sides, 3)]


def test_a_picture_is_predicted_at_the_scale_and_measured_at_its_own_size():
    truth = np.zeros((4, 8), "uint8")
    truth[:, 4:] = 2
    image = np.zeros((4, 8, 3), "uint8")
    image[..., 0] = 100 * truth
    pairs = Pairs([image], [truth], 3, 11, str, str)
    model = Told()
    found = measure(model, pairs, (16, 64), batch_size=1)
    assert model.batches == [(1, 16, 32, 3)]
    assert found["pixels"] == 32
    assert found["pixel_accuracy"] == 1.0
    assert found["class_iou"] == [1.0, None, 1.0]


def test_a_keras_model_is_measured_on_every_backend():
    images = keras.Input((None, None, 3))
    convolution = keras.layers.Conv2D(3, 1)
    model = keras.Model(images, convolution(images))
    # 0, red - 50 and 2 red - 200: the largest is that of the class that red tells.
    kernel = np.zeros((1, 1, 3, 3))
    kernel[0, 0, 0] = [0, 1, 2]
    convolution.set_weights([kernel, np.array([0, -50, -200])])
    pairs = pairs_of(3, sizes=((8, 8),))
    found = measure(model, pairs, (8, 8), batch_size=2)
    assert found == {"images": 3, **measures(by_hand(pairs))}


def test_logits_that_are_not_finite_are_an_error():
    class Broken(Told):
        def predict(self, images, batch_size, verbose):
            return np.full((*images.shape[:3], 3), np.nan)

    with pytest.raises(FloatingPointError, match="contain NaN or infinity"):
        measure(Broken(), pairs_of(1), (8, 8))


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        measure(Told(), pairs_of(1), (8, 8), batch_size=0)


def test_labels_that_are_wrong_name_the_file():
    pairs = Pairs(
        [np.zeros((2, 2, 3), "uint8")],
        [np.full((2, 2), 9, "uint8")],
        3,
        11,
        "image {}".format,
        "labels {}".format,
    )
    with pytest.raises(ValueError, match="labels 0 has the unknown labels 9"):
        measure(Told(), pairs, (8, 8))
