"""Evaluates classifiers on clean, occluded and attacked images."""

import dataclasses

import numpy as np

from keras_cbvit.models.logits import gives_logits

from ..data.conditions import Inputs
from ..training.hand_over import predict
from .attacks import Attacked, fgsm, pgd
from .metrics import measures

ATTACKS = {"fgsm": fgsm, "pgd": pgd}
CONDITIONS = ("clean", "occlusion", *ATTACKS)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions of a classifier for the images that count."""

    values: np.ndarray
    """Logits or probabilities, float32 of shape `(images, classes)`."""
    right: np.ndarray
    """Correct classes, bool of the same shape."""
    logits: bool
    indices: np.ndarray
    """Indices of these images in their split."""

    def measures(self):
        """Returns the result of `recipes.evaluation.metrics.measures`."""
        return measures(self.values, self.right, self.logits)


def measure(
    model,
    split,
    under="clean",
    epsilon=1.0,
    batch_size=256,
    strict=False,
    progress=False,
):
    """Evaluates a classifier on images, each exactly once.

    Skips images that cannot be decoded and images without a correct class. The results
    do not depend on the batch size or the number of devices.

    Args:
        model: Keras model that takes images with values 0-255 and returns probabilities
            or logits, detected by `keras_cbvit.models.logits`. To use several devices,
            build it and call this in `recipes.training.devices.distribute`.
        split: a `recipes.data.images.Split`. Its labels are classes, or bool of shape
            `(images, classes)` if several classes may be correct, as in ReaL.
        under: "clean"; "occlusion", see `recipes.data.conditions.occlude`; "fgsm" or
            "pgd", see `recipes.evaluation.attacks`.
        epsilon: strength of an attack in pixel values.
        batch_size: number of images per batch.
        strict: whether to raise an error if an image cannot be decoded.
        progress: whether to show a progress bar.

    Returns:
        A dict with `images`, `right`, `top1`, `top5`, `loss` and `ece`, see
        `recipes.evaluation.metrics.measures`.

    Raises:
        ValueError: if the condition is unknown, or a label is not a class of the model.
        FloatingPointError: if a prediction is NaN or infinite.
    """
    found = predictions_of(model, split, under, epsilon, batch_size, strict, progress)
    return found.measures()


def predictions_of(
    model,
    split,
    under="clean",
    epsilon=1.0,
    batch_size=256,
    strict=False,
    progress=False,
):
    """Returns the `Predictions` for images; for the arguments, see `measure`."""
    if under not in CONDITIONS:
        raise ValueError(f"under={under!r} must be one of {', '.join(CONDITIONS)}.")
    if not epsilon >= 0:
        raise ValueError(f"epsilon={epsilon} must not be negative.")
    batches = Inputs(split, model.output_shape[-1], under, batch_size, strict)
    logits = gives_logits(model)
    if under in ATTACKS:
        model = Attacked(model, ATTACKS[under], epsilon, logits)
    predictions = predict(model, batches, verbose=int(progress))
    counts = batches.right.any(axis=1)
    counts[list(batches.broken)] = False
    right = batches.right[counts]
    return Predictions(predictions[counts], right, logits, np.flatnonzero(counts))
