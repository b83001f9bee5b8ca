"""Batches of crops and their labels, to train on."""

import types

import numpy as np

from ..batches import shuffled
from ..feed import Steps
from .augment import augment, draw
from .pairs import IGNORED


class TrainingCrops(Steps):
    """Shuffled, augmented crops with the class of each pixel.

    What a batch holds follows from the seed and the number of the step alone, so
    training can go on at any step. Every image is seen once before any is seen
    again; a batch may hold the last images of one pass and the first of the next.

    Args:
        pairs: a `recipes.data.segmentation.pairs.Pairs`.
        batch_size: crops of a step over all devices.
        data: a `recipes.options.segmentation.Data`, for the sizes.
        augmentation: a `recipes.options.segmentation.Augmentation`.
        steps_per_epoch: after how many steps the log has an entry.
        seed: of everything that is drawn.

    Raises:
        ValueError: if there are no images.
    """

    def __init__(
        self, pairs, batch_size, data, augmentation, steps_per_epoch=1, seed=0
    ):
        if not len(pairs):
            raise ValueError("There are no images.")
        self.pairs = pairs
        self.broken_images = pairs.broken_images
        self.batch_size = batch_size
        self.parts = batch_size
        self.size, self.scale = data.image_size, data.scale
        shape = batch_size, *self.size
        self.arrays = {"images": ((*shape, 3), "uint8"), "labels": (shape, "uint8")}
        # Not the options, whose module imports Keras, which workers do not.
        self.augmentation = types.SimpleNamespace(**vars(augmentation))
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed

    def indices(self, step):
        """The images of a step."""
        number = len(self.pairs)
        positions = step * self.batch_size + np.arange(self.batch_size)
        return np.array(
            [shuffled(number, self.seed, p // number)[p % number] for p in positions]
        )

    def prepare(self, step, part, arrays):
        """Makes a crop and its labels."""
        random = np.random.default_rng((self.seed, step))
        drawn = draw(random, self.batch_size, self.augmentation)
        image, labels = self.pairs[self.indices(step)[part]]
        arrays["images"][part], arrays["labels"][part] = augment(
            image,
            labels,
            self.size,
            self.scale,
            self.augmentation.most_of_one_class,
            {name: values[part] for name, values in drawn.items()},
        )

    def join(self, step, arrays, found):
        """The crops of a step.

        Returns:
            uint8 images of shape `(batch, height, width, 3)`; uint8 labels of shape
            `(batch, height, width)`, `IGNORED` where a pixel does not count; float32
            weights of shape `(batch,)`, all alike: how many pixels the batch has for
            each that counts. With them the mean over pixels of `PixelCrossEntropy`
            becomes the mean over those that count, on any number of devices.
        """
        labels = arrays["labels"]
        counted = max(np.count_nonzero(labels != IGNORED), 1)
        weights = np.full(self.batch_size, labels.size / counted, "float32")
        return arrays["images"], labels, weights
