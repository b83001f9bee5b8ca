import keras
import numpy as np
import pytest

import keras_cbvit
from tests.pretrained.places import entry, write_catalog
from tests.tiny import tiny

NAMES = ["cat", "dog", "eel"]
PREDICTIONS = np.array([[0.25, 0.625, 0.125], [0.5, 0.0, 0.5]], "float32")


def test_the_most_probable_classes_are_named_the_largest_first():
    assert keras_cbvit.decode_predictions(PREDICTIONS, NAMES, top=2) == [
        [("dog", 0.625), ("cat", 0.25)],
        [("cat", 0.5), ("eel", 0.5)],  # equal ones in their order
    ]


def test_all_classes_are_named_if_there_are_fewer_than_five():
    first, _ = keras_cbvit.decode_predictions(PREDICTIONS, NAMES)
    assert [name for name, _ in first] == ["dog", "cat", "eel"]
    six = keras_cbvit.decode_predictions(np.eye(6)[:1], [*"abcdef"])
    assert len(six[0]) == 5


@pytest.mark.parametrize("weights", ["vitcb_s.toy", "toy"])
def test_names_are_those_of_published_weights(weights, own_folder):
    write_catalog(own_folder, entry("vitcb_s.headless", class_names=[]), entry())
    assert keras_cbvit.decode_predictions([[0.25, 0.75]], weights, top=1) == [
        [("dog", 0.75)]
    ]


def test_names_are_those_of_a_model():
    model = tiny()
    model.class_names = NAMES
    best = keras_cbvit.decode_predictions(PREDICTIONS, model, top=1)
    assert best == [[("dog", 0.625)], [("cat", 0.5)]]
    assert keras_cbvit.class_names(model) == NAMES
    for nameless in (tiny(name="mine"), keras.Sequential(name="mine")):
        with pytest.raises(ValueError, match="mine has no class names"):
            keras_cbvit.class_names(nameless)


def test_predictions_may_be_a_tensor():
    tensor = keras.Variable(PREDICTIONS).value  # on torch, one with a gradient
    first, _ = keras_cbvit.decode_predictions(tensor, NAMES, top=1)
    assert first == [("dog", 0.625)]


def test_a_tag_of_weights_with_different_classes_is_refused(own_folder):
    other = entry("vit_b.toy", class_names=["dog", "cat"])
    write_catalog(own_folder, entry("vitcb_s.toy"), other)
    message = r"tag of weights with different classes; .* vit_b\.toy, vitcb_s\.toy\."
    with pytest.raises(ValueError, match=message):
        keras_cbvit.decode_predictions([[0.25, 0.75]], "toy")
    best = keras_cbvit.decode_predictions([[0.25, 0.75]], "vit_b.toy", top=1)
    assert best == [[("cat", 0.75)]]


@pytest.mark.parametrize("weights", ["tooy", "vitcb_s.headless"])
def test_unknown_weights_and_weights_without_classes_are_refused(weights, own_folder):
    write_catalog(own_folder, entry("vitcb_s.headless", class_names=[]), entry())
    message = (
        f"'{weights}' is not the name of published weights with "
        "class names. Known weights: vitcb_s.headless, vitcb_s.toy"
    )
    with pytest.raises(ValueError, match=message):
        keras_cbvit.decode_predictions([[0.25, 0.75]], weights)


@pytest.mark.parametrize("shape", [(2, 4), (3,), (1, 2, 3)])
def test_predictions_of_another_shape_are_refused(shape):
    message = r"predictions must have shape \(batch, 3\) for 3 class names"
    with pytest.raises(ValueError, match=message):
        keras_cbvit.decode_predictions(np.zeros(shape), NAMES)
