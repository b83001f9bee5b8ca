"""From a classifier and images to numbers, under conditions that make it harder."""

import numpy as np

from ..data.batches import Batches
from ..training.hand_over import predict
from .attacks import Attacked, fgsm, pgd
from .logits import gives_logits
from .metrics import measures

ATTACKS = {"fgsm": fgsm, "pgd": pgd}
CONDITIONS = ("clean", "occlusion", *ATTACKS)


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
            or logits; `recipes.evaluation.logits` decides which. To measure on several
            devices, build it and call this in `recipes.training.devices.distribute`.
        split: a `recipes.data.pictures.Split`. Its labels are classes, or bool of shape
            `(images, classes)` where several may be right, as in ReaL.
        under: "clean"; "occlusion", see `occluded`; "fgsm" or "pgd", see
            `recipes.evaluation.attacks`.
        epsilon: the strength of an attack in pixel values.
        batch_size: images that are predicted at once.
        strict: whether a picture that cannot be decoded is an error.
        progress: whether to draw a progress bar.

    Returns:
        A dict with `images`, `right`, `top1`, `top5`, `loss` and `ece`, see
        `recipes.evaluation.metrics.measures`.

    Raises:
        ValueError: on an unknown condition, or labels that are not classes of the
            model.
        FloatingPointError: if a prediction is NaN or infinite.
    """
    if under not in CONDITIONS:
        raise ValueError(f"under={under!r} must be one of {', '.join(CONDITIONS)}.")
    if not epsilon >= 0:
        raise ValueError(f"epsilon={epsilon} must not be negative.")
    batches = _Inputs(split, model.output_shape[-1], under, batch_size, strict)
    logits = gives_logits(model)
    if under in ATTACKS:
        model = Attacked(model, ATTACKS[under], epsilon, logits)
    predictions = predict(model, batches, verbose=int(progress))
    counts = batches.right.any(axis=1)
    counts[list(batches.broken)] = False
    return measures(predictions[counts], batches.right[counts], logits)


def occluded(images):
    """Images with a black square of half their height and width in the center.

    The protocol of the paper's Table 8, 112x112 pixels of 224x224 "set to zero". The
    project's reading: zero is the pixel value, before the model normalizes.
    """
    images = images.copy()
    height, width = images.shape[1] // 2, images.shape[2] // 2
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    images[:, top : top + height, left : left + width] = 0
    return images


class _Inputs(Batches):
    """What a model, or an attack on it, takes for each batch of images.

    Attributes:
        right: which classes are right, bool of shape `(images, classes)`.
    """

    def __init__(self, split, classes, under, batch_size, strict):
        super().__init__(split, classes, batch_size, strict=strict)
        self.under = under
        labels = split.labels
        if labels.ndim == 1:
            labels = labels[:, None] == np.arange(classes)
        self.right = labels

    def targets(self, indices):
        return self.right[indices]

    def join(self, step, arrays, found):
        images, right, _ = super().join(step, arrays, found)
        if self.under == "clean":
            return (images,)
        if self.under == "occlusion":
            return (occluded(images),)
        inputs = {"images": images, "right": right}
        if self.under == "pgd":
            indices = step * self.batch_size + np.arange(len(images))
            start = [_start(index, images.shape[1:]) for index in indices]
            inputs["start"] = np.stack(start)
        return (inputs,)


def _start(index, shape):
    """A random array from -1 to 1, float32, the same for each image at any time."""
    random = np.random.default_rng(index)
    return 2 * random.random(shape, dtype="float32") - 1
