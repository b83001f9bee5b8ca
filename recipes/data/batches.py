"""From images by index to batches for `fit`, `evaluate` and `predict`."""

import functools
import os
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

# Keras's own workers would mix the batches of one epoch with those of the next:
# `fit` looks at the first batch before it begins, and what they prepared stays.
_decoders = ThreadPoolExecutor(os.cpu_count())


class Batches(keras.utils.PyDataset):
    """Batches of one size, in order: images, one-hot labels, weights of the images.

    The last batch is filled up with images of weight 0, so that each image counts
    exactly once over any number of devices. Keras divides the loss by the number of
    images with the fillers, the weights make up for them.
    """

    def __init__(self, split, classes, batch_size):
        if not len(split):
            raise ValueError("There are no images.")
        first, last = split.labels.min(), split.labels.max()
        if first < 0 or last >= classes:
            raise ValueError(
                f"The labels go from {first} to {last}, but the {classes} classes "
                f"from 0 to {classes - 1}."
            )
        super().__init__()
        self.split = split
        self.classes = classes
        self.batch_size = batch_size

    def __len__(self):
        return -(-len(self.split) // self.batch_size)

    def __getitem__(self, step):
        number = len(self.split)
        indices = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        weight = len(self) * self.batch_size / number
        weights = np.where(indices < number, weight, 0).astype("float32")
        return (*self._take(np.minimum(indices, number - 1)), weights)

    def _take(self, indices):
        images = self.split.images
        if isinstance(images, np.ndarray):
            images = images[indices]
        else:
            images = np.stack(list(_decoders.map(images.__getitem__, indices)))
        return images, np.eye(self.classes, dtype="float32")[self.split.labels[indices]]


class TrainingBatches(Batches):
    """Shuffled and augmented batches, another order and other pixels each epoch.

    What a batch holds follows from the seed, the epoch and the step alone. Every
    batch is full: an epoch leaves out the remainder. Give `begin_epoch` to `fit` as a
    callback.
    """

    def __init__(self, split, classes, batch_size, data, label_smoothing, seed):
        super().__init__(split, classes, batch_size)
        self.data = data
        self.label_smoothing = label_smoothing
        self.seed = seed
        self.epoch = 0
        if not len(self):
            raise ValueError(
                f"global_batch_size={batch_size} is more than the {len(split)} "
                "training images; use a smaller one."
            )

    def __len__(self):
        return len(self.split) // self.batch_size

    def __getitem__(self, step):
        order = _order(len(self.split), self.seed, self.epoch)
        start = step * self.batch_size
        images, labels = self._take(order[start : start + self.batch_size])
        random = np.random.default_rng((self.seed, self.epoch, step))
        images = augment(images, random, flip=self.data.flip, shift=self.data.shift)
        smoothing = self.label_smoothing
        return images, labels * (1 - smoothing) + smoothing / self.classes

    def begin_epoch(self, epoch, logs=None):
        """Goes to an epoch; Keras's `on_epoch_end` also comes before the first."""
        self.epoch = epoch


@functools.lru_cache(maxsize=2)
def _order(number, seed, epoch):
    return np.random.default_rng((seed, epoch)).permutation(number)


def augment(images, random, flip, shift):
    """Mirrors each image with probability 1/2 and shifts it by up to `shift` pixels.

    What a shift uncovers is black.
    """
    if flip:
        mirrored = random.random(len(images)) < 0.5
        images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    if shift:
        number, height, width, _ = images.shape
        padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
        top, left = random.integers(0, 2 * shift + 1, (2, number))
        rows = top[:, None] + np.arange(height)
        columns = left[:, None] + np.arange(width)
        each = np.arange(number)[:, None, None]
        images = padded[each, rows[:, :, None], columns[:, None, :]]
    return images
