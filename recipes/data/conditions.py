"""Inputs for evaluating classifiers on clean, occluded, or attacked images.

Worker processes import this module, so it must not import Keras.
"""

import numpy as np

from .batches import Batches


def occlude(images):
    """Blackens the center of images, half their height and width.

    This is the protocol of the paper's Table 8: 112x112 of 224x224 pixels "set to
    zero". The project takes zero as the pixel value before normalization.
    """
    images = images.copy()
    height, width = images.shape[1] // 2, images.shape[2] // 2
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    images[:, top : top + height, left : left + width] = 0
    return images


class Inputs(Batches):
    """Batches of inputs for a model, or for an attack on it.

    Attributes:
        right: whether each class is correct, bool of shape `(images, classes)`.
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
            return (occlude(images),)
        inputs = {"images": images, "right": right}
        if self.under == "pgd":
            indices = step * self.batch_size + np.arange(len(images))
            start = [_start(index, images.shape[1:]) for index in indices]
            inputs["start"] = np.stack(start)
        return (inputs,)


def _start(index, shape):
    """Returns a float32 array of random numbers from -1 to 1, fixed for each image."""
    random = np.random.default_rng(index)
    return 2 * random.random(shape, dtype="float32") - 1
