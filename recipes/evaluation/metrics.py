"""Accuracy, loss and calibration error of classifiers.

The correct classes of an image are a row of ones and zeros, since ReaL has several.
"""

import keras
import numpy as np
from keras import ops

TOP = 5
BINS = 15  # Guo et al., "On Calibration of Modern Neural Networks", 2017
TINY = float(np.finfo("float32").tiny)
NEVER = -1e30  # logarithm of 0, finite so that its gradient is finite


def log_probabilities(predictions, logits):
    """Returns the natural logarithms of a classifier's probabilities.

    Unlike Keras's losses, it does not clip probabilities to 1e-7 and 1 - 1e-7, where an
    attack would find no gradient.

    Args:
        predictions: tensor of shape `(images, classes)`.
        logits: whether they are logits, see `keras_cbvit.models.logits`. Probabilities,
            including those of a sigmoid, are not normalized.

    Returns:
        A float32 tensor of the same shape.
    """
    predictions = ops.cast(predictions, "float32")
    if logits:
        return ops.log_softmax(predictions)
    return ops.log(ops.maximum(predictions, TINY))


def negative_log_likelihood(predictions, right, logits):
    """Returns the loss of each image in nats: -ln of its correct classes' probability.

    For one correct class, this is the cross-entropy.

    Args:
        predictions, logits: see `log_probabilities`.
        right: tensor of the same shape, nonzero for correct classes.
    """
    logs = log_probabilities(predictions, logits)
    return -ops.logsumexp(ops.where(right, logs, NEVER), axis=-1)


def expected_calibration_error(confidences, hits):
    """Returns the expected calibration error, from 0 to 1 (Guo et al., 2017).

    It is the mean over the images of |accuracy - mean confidence| of the image's bin.
    The 15 bins `(k/15, (k+1)/15]` have equal width.

    Args:
        confidences: probability of each image's predicted class.
        hits: whether that class is correct.
    """
    confidences = np.asarray(confidences, "float64")
    bins = _bins(confidences)
    return float(np.abs(np.bincount(bins, hits - confidences)).sum() / len(bins))


def reliability(confidences, hits):
    """Returns size, confidence and accuracy of the bins of the calibration error.

    For the arguments, see `expected_calibration_error`.

    Returns:
        Three arrays of shape `(15,)`: the number of images in each bin, their mean
        confidence, and their accuracy. The last two are NaN for an empty bin.
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
    """Returns all metrics of a classifier over images with a correct class.

    Args:
        predictions, logits: see `log_probabilities`.
        right: bool array of the same shape, true for correct classes.

    Returns:
        A dict: `images`, the number of images; `right`, the number of correct
        predictions; `top1` and `top5`, the share of images with a correct class among
        the first one or five predictions; `loss`, the mean of
        `negative_log_likelihood` in nats; `ece`, the `expected_calibration_error`.

    Raises:
        ValueError: if there are no images.
        FloatingPointError: if a prediction is NaN or infinite.
    """
    predictions = np.asarray(predictions, "float32")
    if not len(predictions):
        raise ValueError("None of the images to evaluate has a label.")
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
    """Returns the rank of the best correct class; the lower index wins ties.

    The rank is 0 where `argmax` is correct.
    """
    best = np.where(right, predictions, -np.inf).argmax(axis=1)[:, None]
    score = np.take_along_axis(predictions, best, axis=1)
    earlier = np.arange(predictions.shape[1]) < best
    before = (predictions > score) | ((predictions == score) & earlier)
    return before.sum(axis=1)


class Among(keras.layers.Layer):
    """Restricts predictions to a subset of classes, as normalized log probabilities.

    Args:
        classes: indices of the classes.
        logits: whether the predictions are logits, see `keras_cbvit.models.logits`.
    """

    activation = staticmethod(keras.activations.log_softmax)  # for `gives_logits`

    def __init__(self, classes, logits, **options):
        super().__init__(**options)
        self.classes = classes
        self.logits = logits

    def call(self, predictions):
        logs = log_probabilities(predictions, self.logits)
        return self.activation(ops.take(logs, self.classes, axis=-1))
