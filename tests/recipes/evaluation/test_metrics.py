import keras
import numpy as np
import pytest

from recipes.evaluation.metrics import (
    Among,
    expected_calibration_error,
    log_probabilities,
    measures,
    negative_log_likelihood,
)

PROBABILITIES = np.array(
    [[0.7, 0.2, 0.1], [0.05, 0.65, 0.3], [0.3, 0.28, 0.42], [0.1, 0.64, 0.26]]
)
SHIFTS = np.array([[1], [-2], [3], [50]])  # of logits, they change nothing
RIGHT = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0]], bool)


@pytest.mark.parametrize(
    "predictions, logits",
    [(PROBABILITIES, False), (np.log(PROBABILITIES) + SHIFTS, True)],
)
def test_measures_of_probabilities_and_of_logits_by_hand(predictions, logits):
    assert measures(predictions, RIGHT, logits) == {
        "images": 4,
        "right": 3,
        "top1": 0.75,
        "top5": 1.0,
        "loss": pytest.approx(-np.log(0.7 * 0.3 * 0.42 * 0.64) / 4, rel=1e-5),
        # 0.65 and 0.64 are in one bin, of which one is right.
        "ece": pytest.approx((0.3 + abs(1 - 1.29) + 0.58) / 4, rel=1e-5),
    }


def test_the_sum_of_the_predictions_does_not_decide_what_they_are():
    # Logits that could be probabilities, and probabilities of half precision.
    found = measures(PROBABILITIES, RIGHT, logits=True)
    shares = np.exp(PROBABILITIES) / np.exp(PROBABILITIES).sum(axis=1, keepdims=True)
    assert found["loss"] == pytest.approx(-np.log(shares[RIGHT]).mean(), rel=1e-5)
    found = measures(0.98 * PROBABILITIES, RIGHT, logits=False)
    expected = -np.log(0.98 * PROBABILITIES[RIGHT]).mean()
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


def test_one_of_several_right_classes_is_enough():
    right = np.array([[0, 1, 1], [1, 0, 1], [1, 0, 1], [1, 1, 1]], bool)
    found = measures(PROBABILITIES, right, logits=False)
    assert found["right"] == 2  # 0.42 and any
    product = 0.3 * 0.35 * 0.72 * 1.0
    assert found["loss"] == pytest.approx(-np.log(product) / 4, rel=1e-5)


def test_top_5_is_among_the_five_largest():
    predictions = np.tile(np.array([0.0, 6, 5, 4, 3, 2, 1]), (7, 1))
    found = measures(predictions, np.eye(7, dtype=bool), logits=True)
    assert (found["top1"], found["top5"]) == (1 / 7, 5 / 7)


def test_of_equal_predictions_the_first_counts_as_for_argmax():
    found = measures(np.zeros((7, 7)), np.eye(7, dtype=bool), logits=True)
    assert (found["right"], found["top5"]) == (1, 5 / 7)


@pytest.mark.parametrize(
    ("confidences", "hits", "expected"),
    [
        ([1.0, 1.0], [1, 1], 0),
        ([1.0, 1.0], [0, 1], 0.5),
        # Neighboring bins: (12/15, 13/15] and (13/15, 14/15].
        ([0.85, 0.88], [0, 1], (0.85 + 0.12) / 2),
        # One bin.
        ([0.85, 0.81], [0, 1], abs(1 - 1.66) / 2),
        ([0.01], [0], 0.01),
        ([0.0], [0], 0),
    ],
)
def test_calibration_error_by_hand(confidences, hits, expected):
    found = expected_calibration_error(np.array(confidences), np.array(hits, bool))
    assert found == pytest.approx(expected)


def test_predictions_that_are_not_numbers_are_an_error():
    for bad in (np.nan, np.inf):
        predictions = PROBABILITIES.copy()
        predictions[2, 1] = bad
        with pytest.raises(FloatingPointError, match="of 1 of 4 images are NaN"):
            measures(predictions, RIGHT, logits=False)


def test_nothing_to_measure_on_is_an_error():
    with pytest.raises(ValueError, match="None of the images to evaluate has a label"):
        measures(np.zeros((0, 3)), np.zeros((0, 3), bool), logits=False)


def test_certain_probabilities_have_finite_logarithms():
    predictions = np.array([[1.0, 0.0]], "float32")
    logs = keras.ops.convert_to_numpy(log_probabilities(predictions, logits=False))
    assert logs[0, 0] == 0
    assert -90 < logs[0, 1] < -80
    loss = negative_log_likelihood(predictions, np.array([[False, True]]), False)
    assert keras.ops.convert_to_numpy(loss)[0] == -logs[0, 1]


@pytest.mark.parametrize("give_probabilities", [True, False])
def test_among_some_classes_the_others_are_as_if_not_there(give_probabilities):
    logits = np.array([[3.0, 1, 2, -1], [0, 5, 5, 4]])
    exponentials = np.exp(logits)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    layer = Among([1, 3], logits=not give_probabilities)
    found = layer(probabilities if give_probabilities else logits)
    found = keras.ops.convert_to_numpy(keras.ops.softmax(found))
    expected = exponentials[:, [1, 3]]
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
