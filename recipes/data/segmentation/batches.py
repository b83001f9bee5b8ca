"""Batches of crops and their labels for training."""

import types

import numpy as np

from ..batches import image_order
from ..feed import Steps
from .augment import augment, draw
from .pairs import IGNORED


class TrainingCrops(Steps):
    """Shuffled, augmented crops with their segmentation maps.

    A batch depends only on the seed and the step, so training can resume at any step.
    Each pass covers every image once; a batch may contain the last images of one pass
    and the first of the next.

    Args:
        pairs: a `recipes.data.segmentation.pairs.Pairs`.
        batch_size: crops per step, summed over all devices.
        data: a `recipes.options.segmentation.Data` that defines the sizes.
        augmentation: a `recipes.options.segmentation.Augmentation`.
        steps_per_epoch: number of steps per entry of the log.
        seed: seed of all random numbers.

    Raises:
        ValueError: if there are no images.
    """

    def __init__(
        self, pairs, batch_size, data, augmentation, steps_per_epoch=1, seed=0
    ):
        if not len(pairs):
            raise ValueError("The data set contains no images.")
        self.pairs = pairs
        self.broken_images = pairs.broken_images
        self.batch_size = batch_size
        self.parts = batch_size
        self.size, self.scale = data.image_size, data.scale
        shape = batch_size, *self.size
        self.arrays = {"images": ((*shape, 3), "uint8"), "labels": (shape, "uint8")}
        # Copied since workers cannot import the module of the options, nor Keras.
        self.augmentation = types.SimpleNamespace(**vars(augmentation))
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed

    def indices(self, step):
        """Returns the indices of a step's images."""
        number = len(self.pairs)
        positions = step * self.batch_size + np.arange(self.batch_size)
        return np.array(
            [image_order(number, self.seed, p // number)[p % number] for p in positions]
        )

    def prepare(self, step, part, arrays):
        """Prepares a crop and its labels."""
        random = np.random.default_rng((self.seed, step))
        drawn = draw(random, self.batch_size, self.augmentation)
        image, labels = self.pairs[self.indices(step)[part]]
        arrays["images"][part], arrays["labels"][part] = augment(
            image,
            labels,
            self.size,
            self.scale,
            self.augmentation.max_class_fraction,
            {name: values[part] for name, values in drawn.items()},
        )

    def join(self, step, arrays, found):
        """Assembles a batch.

        Returns:
            uint8 images of shape `(batch, height, width, 3)`; uint8 labels of shape
            `(batch, height, width)`, `IGNORED` for ignored pixels; and equal float32
            weights of shape `(batch,)`: the ratio of all pixels to labeled pixels in
            the batch. The weights turn the mean of `PixelCrossEntropy` over all pixels
            into the mean over labeled pixels, on any number of devices.
        """
        labels = arrays["labels"]
        counted = max(np.count_nonzero(labels != IGNORED), 1)
        weights = np.full(self.batch_size, labels.size / counted, "float32")
        return arrays["images"], labels, weights
