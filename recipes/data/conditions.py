"""What classifiers are given for images, under conditions that make it harder.

Worker processes, which cannot import Keras, import this.
"""

import numpy as np

from .batches import Batches


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


class Inputs(Batches):
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
