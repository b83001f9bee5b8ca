"""Whole images at a scale, to measure segmentation on.

Worker processes, which cannot import Keras, import this.
"""

import numpy as np

from ..feed import Steps
from .augment import resized, scaled


class WholePictures(Steps):
    """Images one by one: the image at a scale, its labels, its canvas."""

    parts = 1

    def __init__(self, pairs, scale, divisor):
        self.pairs = pairs
        self.scale = scale
        self.divisor = divisor

    def prepare(self, step, part, arrays):
        picture, labels = self.pairs[step]
        return *fitted(picture, self.scale, self.divisor), labels

    def join(self, step, arrays, found):
        ((image, canvas, labels),) = found
        return image, labels, canvas


def fitted(picture, scale, divisor):
    """An image as an array at a scale, and the size of its canvas."""
    image = np.asarray(resized(picture, scaled(picture.size, scale)))
    return image, tuple(-(-side // divisor) * divisor for side in image.shape[:2])
