"""Whole images at a scale, for evaluating segmentation.

Worker processes import this module, so it must not import Keras.
"""

import numpy as np

from ..feed import Steps
from .augment import resize, scaled_size


class WholeImages(Steps):
    """Batches of one resized image with its labels and the size of its canvas."""

    parts = 1

    def __init__(self, pairs, scale, divisor):
        self.pairs = pairs
        self.scale = scale
        self.divisor = divisor

    def prepare(self, step, part, arrays):
        image, labels = self.pairs[step]
        return *fit_to_canvas(image, self.scale, self.divisor), labels

    def join(self, step, arrays, found):
        ((image, canvas, labels),) = found
        return image, labels, canvas


def fit_to_canvas(image, scale, divisor):
    """Resizes an image to a scale; returns an array and the size of its canvas."""
    image = np.asarray(resize(image, scaled_size(image.size, scale)))
    return image, tuple(-(-side // divisor) * divisor for side in image.shape[:2])
