"""From a classifier and images to numbers, under conditions that make it harder."""

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
    """What a classifier predicts of the images that count."""

    values: np.ndarray
    """Logits or probabilities, float32 of shape `(images, classes)`."""
    right: np.ndarray
    """Which classes are right, bool of this shape."""
    logits: bool
    indices: np.ndarray
    """Of these images in their split."""

    def measures(self):
        """See `recipes.evaluation.metrics.measures`."""
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
    """Measures a classifier on images, each of which counts exactly once.

    Images that cannot be decoded, and images of which no class is right, do not count.
    Neither the size of the batches nor the number of devices changes the numbers.

    Args:
        model: a Keras model that takes images of values 0-255 and gives probabilities
            or logits; `keras_cbvit.models.logits` decides which. To measure on several
            devices, build it and call this in `recipes.training.devices.distribute`.
        split: a `recipes.data.images.Split`. Its labels are classes, or bool of shape
            `(images, classes)` where several may be right, as in ReaL.
        under: "clean"; "occlusion", see `occluded`; "fgsm" or "pgd", see
            `recipes.evaluation.attacks`.
        epsilon: the strength of an attack in pixel values.
        batch_size: images that are predicted at once.
        strict: whether an image that cannot be decoded is an error.
        progress: whether to draw a progress bar.

    Returns:
        A dict with `images`, `right`, `top1`, `top5`, `loss` and `ece`, see
        `recipes.evaluation.metrics.measures`.

    Raises:
        ValueError: on an unknown condition, or labels that are not classes of the
            model.
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
    """The `Predictions` that are measured; for the arguments see `measure`."""
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
