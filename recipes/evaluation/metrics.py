"""Accuracy, loss and calibration, from predictions and the classes that are right.

Which classes are right is a row of ones and zeros for each image: ReaL has several.
"""

import keras
import numpy as np
from keras import ops

TOP = 5
BINS = 15  # Guo et al., "On Calibration of Modern Neural Networks", 2017
TINY = float(np.finfo("float32").tiny)
NEVER = -1e30  # a logarithm, finite so that its gradient is


def log_probabilities(predictions, logits):
    """Natural logarithms of the probabilities that a classifier gives.

    Unlike in Keras's losses, they are not kept away from 0 and 1 by 1e-7, where an
    attack would find no gradient.

    Args:
        predictions: tensor of shape `(images, classes)`.
        logits: whether they are logits, see `keras_cbvit.models.logits`. Probabilities
            are taken as they are, those of a sigmoid, too.

    Returns:
        A float32 tensor of this shape.
    """
    predictions = ops.cast(predictions, "float32")
    if logits:
        return ops.log_softmax(predictions)
    return ops.log(ops.maximum(predictions, TINY))


def negative_log_likelihood(predictions, right, logits):
    """The loss of each image in nats: -ln of the probability of its right classes.

    With one right class that is the cross-entropy.

    Args:
        predictions, logits: see `log_probabilities`.
        right: tensor of this shape, not 0 where a class is right.
    """
    logs = log_probabilities(predictions, logits)
    return -ops.logsumexp(ops.where(right, logs, NEVER), axis=-1)


def expected_calibration_error(confidences, hits):
    """How far confidence is from accuracy, from 0 to 1 (Guo et al., 2017).

    The mean over the images of |accuracy - mean confidence| of the image's bin, one of
    15 equal ones, `(k/15, (k+1)/15]`.

    Args:
        confidences: the probability of each image's predicted class.
        hits: whether that class is right.
    """
    confidences = np.asarray(confidences, "float64")
    bins = _bins(confidences)
    return float(np.abs(np.bincount(bins, hits - confidences)).sum() / len(bins))


def reliability(confidences, hits):
    """Confidence and accuracy of the bins of `expected_calibration_error`.

    For the arguments see there.

    Returns:
        Three arrays of shape `(15,)`: how many images there are in each bin, the mean
        of their confidences, and the share of them whose predicted class is right. Both
        are NaN for an empty bin.
    """
    bins = _bins(confidences)
    images = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, each, BINS) for each in (confidences, hits)]
    with np.errstate(invalid="ignore"):
        return images, *(each / images for each in sums)


def _bins(confidences):
    confidences = np.asarray(confidences, "float64")
    return np.clip(np.ceil(confidences * BINS).astype(int) - 1, 0, BINS - 1)


def measures(predictions, right, logits):
    """Everything that is measured, over images that each have a right class.

    Args:
        predictions, logits: see `log_probabilities`.
        right: bool array of this shape. A prediction is right if it is one of these
            classes.

    Returns:
        A dict: `images` and `right`, how many there are and how many are named right;
        `top1` and `top5`, the share of images of which the first, or one of the first
        five predictions is right (all, if there are no more than five classes); `loss`,
        the mean of `negative_log_likelihood` in nats; `ece`, the
        `expected_calibration_error`.

    Raises:
        ValueError: if there are no images.
        FloatingPointError: if a prediction is NaN or infinite.
    """
    predictions = np.asarray(predictions, "float32")
    if not len(predictions):
        raise ValueError("There are no images with a label to measure on.")
    finite = np.isfinite(predictions).all(axis=1)
    if not finite.all():
        raise FloatingPointError(
            f"The predictions of {np.sum(~finite)} of {len(predictions)} images are "
            "NaN or infinite."
        )
    ranks = _ranks(predictions, right)
    losses = ops.convert_to_numpy(negative_log_likelihood(predictions, right, logits))
    logs = ops.convert_to_numpy(log_probabilities(predictions, logits))
    confidences = np.exp(logs.max(axis=1).astype("float64"))
    return {
        "images": len(ranks),
        "right": int(np.sum(ranks == 0)),
        "top1": float(np.mean(ranks == 0)),
        "top5": float(np.mean(ranks < TOP)),
        "loss": float(losses.mean(dtype="float64")),
        "ece": expected_calibration_error(confidences, ranks == 0),
    }


def _ranks(predictions, right):
    """How many classes are predicted before the first right one; of equals, the first.

    So the rank is 0 where `argmax` is right.
    """
    best = np.where(right, predictions, -np.inf).argmax(axis=1)[:, None]
    score = np.take_along_axis(predictions, best, axis=1)
    earlier = np.arange(predictions.shape[1]) < best
    before = (predictions > score) | ((predictions == score) & earlier)
    return before.sum(axis=1)


class Among(keras.layers.Layer):
    """Restricts predictions to some of the classes: the logarithms of their shares.

    Args:
        classes: the indices of these classes.
        logits: whether the predictions are logits, see `keras_cbvit.models.logits`.
    """

    activation = staticmethod(keras.activations.log_softmax)  # so its outputs are known

    def __init__(self, classes, logits, **options):
        super().__init__(**options)
        self.classes = classes
        self.logits = logits

    def call(self, predictions):
        logs = log_probabilities(predictions, self.logits)
        return self.activation(ops.take(logs, self.classes, axis=-1))
