"""Batches of images and labels for training and evaluating classifiers."""

import functools
import types
import warnings

import numpy as np
from PIL import Image

from keras_cbvit.images import BrokenImageError

from . import draws
from .augment import augment
from .feed import Steps

# Random numbers that the training step uses.
ON_DEVICE = "erase", "share", "weight", "paste"
PART = 32  # approximate number of images; a worker process holds a few parts


class _Batches(Steps):
    """Base class of the batches for training and evaluation."""

    def __init__(self, split, classes, batch_size, part, strict):
        if not len(split):
            raise ValueError("The data set contains no images.")
        first, last = split.labels.min(), split.labels.max()
        if split.labels.ndim == 2:
            first, last = 0, split.labels.shape[1] - 1
        if first < 0 or last >= classes:
            raise ValueError(
                f"The labels range from {first} to {last}, but the {classes} classes "
                f"are numbered from 0 to {classes - 1}."
            )
        process, processes = part
        if batch_size % processes:
            raise ValueError(
                f"A batch size of {batch_size} is not divisible by the number of "
                f"processes, {processes}."
            )
        rows = batch_size // processes
        self.labels = split.labels
        self.images = split.images
        self.left_out = split.broken
        self.classes = classes
        self.batch_size = batch_size
        self.rows = slice(process * rows, (process + 1) * rows)
        self.parts = -(-rows // PART)
        self.strict = strict
        self.broken = {}
        self.size = split.images.shape[1:3] if self.in_memory else split.images.size
        self.arrays = {"images": ((rows, *self.size, 3), "uint8")}

    @property
    def in_memory(self):
        """Whether the images are decoded in memory."""
        return isinstance(self.images, np.ndarray)

    @property
    def broken_images(self):
        """Number of images skipped so far because they cannot be decoded."""
        return self.left_out + len(self.broken)

    def targets(self, indices):
        """Returns the targets of images, float32 of shape `(images, classes)`."""
        labels = self.labels[indices]
        if labels.ndim == 2:  # multi-label
            return labels.astype("float32")
        one_hot = np.zeros((len(labels), self.classes), "float32")
        one_hot[np.arange(len(labels)), labels] = 1
        return one_hot

    def note_broken(self, found):
        """Counts images that cannot be decoded, and warns once about each.

        Args:
            found: dict from image index to error message.

        Raises:
            ValueError: if no image can be decoded.
        """
        for index, message in found.items():
            if index not in self.broken:
                self.broken[index] = message
                warnings.warn(f"Skipped: {message}", stacklevel=2)
        if len(self.broken) == len(self.labels):
            raise ValueError("None of the images can be decoded.")


class Batches(_Batches):
    """Ordered batches of one size: images, one-hot labels, and sample weights.

    The last batch is padded with images of weight 0, so that each image counts exactly
    once on any number of devices. Keras divides the loss by the number of images
    including padding; the weights compensate for this. Broken images also have weight
    0 and are recorded in `broken`. They do not affect the accuracy, but lower Keras's
    loss by their fraction.

    Args:
        split: a `recipes.data.images.Split`.
        classes: number of classes.
        batch_size: images per batch, summed over all processes.
        part: index of this process and number of processes; each process gets its
            part of every batch.
        strict: whether a broken image is an error.
    """

    def __init__(self, split, classes, batch_size, part=(0, 1), strict=False):
        super().__init__(split, classes, batch_size, part, strict)

    def __len__(self):
        return -(-len(self.labels) // self.batch_size)

    def positions(self, step):
        """Returns positions of a step's images; padding lies beyond the last image."""
        return (step * self.batch_size + np.arange(self.batch_size))[self.rows]

    def prepare(self, step, part, arrays):
        """Decodes the images of a part; returns error messages by image index."""
        rows = np.array_split(np.arange(len(arrays["images"])), self.parts)[part]
        indices = np.minimum(self.positions(step)[rows], len(self.labels) - 1)
        if self.in_memory:
            arrays["images"][rows] = self.images[indices]
            return {}
        broken = {}
        for row, index in zip(rows, indices.tolist(), strict=True):
            try:
                arrays["images"][row] = self.images[index]
            except BrokenImageError as error:
                if self.strict:
                    raise
                arrays["images"][row] = 0  # black
                broken[index] = str(error)
        return broken

    def join(self, step, arrays, found):
        number = len(self.labels)
        weight = len(self) * self.batch_size / number
        positions = self.positions(step)
        indices = np.minimum(positions, number - 1)
        broken = {k: v for part in found for k, v in part.items()}
        self.note_broken(broken)
        counts = (positions < number) & ~np.isin(indices, list(broken))
        weights = np.where(counts, weight, 0).astype("float32")
        return arrays["images"], self.targets(indices), weights


class TrainingBatches(_Batches):
    """Shuffled batches of augmented images, labels, and random numbers for mixing.

    A batch depends only on the seed and the step, so training can resume at any step.
    All batches are full; an epoch drops the remainder. With `repeats`, a batch contains
    several differently augmented copies of each image, and an epoch covers
    correspondingly fewer images (repeated augmentation of Hoffer et al., as in DeiT).

    Pillow augments the images. An image is decoded once for all its copies, which
    belong to the same part. Noise and mixing are applied on the device
    (`recipes.training.mixing`).

    Args:
        split: a `recipes.data.images.Split`.
        classes: number of classes.
        batch_size: images per step, summed over all processes.
        augmentation: a `recipes.options.classification.Augmentation`.
        label_smoothing: label smoothing, towards uniform probabilities, or for
            multi-label targets towards 1/2.
        seed: seed of all random numbers.
        part: index of this process and number of processes; each process gets its
            part of every batch.
        strict: whether a broken image is an error; otherwise the next intact image
            replaces it, and it is recorded in `broken`.

    Raises:
        ValueError: if a label is out of range, or the batch is larger than the data
            set.
    """

    def __init__(
        self,
        split,
        classes,
        batch_size,
        augmentation,
        label_smoothing=0.0,
        seed=0,
        part=(0, 1),
        strict=False,
    ):
        super().__init__(split, classes, batch_size, part, strict)
        if len(split) < batch_size:
            raise ValueError(
                f"global_batch_size={batch_size} exceeds the number of training "
                f"images, {len(split)}; use a smaller batch."
            )
        # Copied since workers cannot import the module of the options, nor Keras.
        self.augmentation = types.SimpleNamespace(**vars(augmentation))
        self.label_smoothing = label_smoothing
        rows = self.arrays["images"][0][0]
        self.arrays = {**self.arrays, "labels": ((rows, classes), "float32")}
        self.seed = seed
        self._last = None, {}

    @property
    def steps_per_epoch(self):
        return len(self.labels) // self.batch_size

    def indices(self, step):
        """Returns the indices of a step's images, for all processes."""
        epoch, step = divmod(step, self.steps_per_epoch)
        order = image_order(len(self.labels), self.seed, epoch)
        repeats = self.augmentation.repeats
        different = -(-self.batch_size // repeats)
        first = step * different
        # Copies are far apart, so that mixing rarely pairs them.
        return np.tile(order[first : first + different], repeats)[: self.batch_size]

    def prepare(self, step, part, arrays):
        """Augments the images of a part, and smooths their labels.

        Returns:
            Dict from the index of each broken image to its error message.
        """
        indices = self.indices(step)[self.rows]
        broken = {}
        drawn = self.draw(step)
        for index in np.unique(indices)[part :: self.parts]:
            replacement, image = self._image(index, broken)
            rows = np.flatnonzero(indices == index)
            for row in rows.tolist():
                numbers = {name: values[row] for name, values in drawn.items()}
                arrays["images"][row] = augment(image, self.size, numbers)
            label = self.targets(np.array([replacement]))
            arrays["labels"][rows] = self.smooth(label)
        return broken

    def join(self, step, arrays, found):
        """Returns a dict for `recipes.training.mixing.mix`, and the smoothed labels."""
        for broken in found:
            self.note_broken(broken)
        drawn = self.draw(step)
        batch = {name: drawn[name] for name in ON_DEVICE if name in drawn}
        return batch | {"images": arrays["images"]}, arrays["labels"]

    def smooth(self, targets):
        """Smooths targets of shape `(images, classes)`.

        The limit is the uniform distribution, or 1/2 per class for multi-label targets.
        """
        alike = 1 / self.classes if self.labels.ndim == 1 else 0.5
        return targets * (1 - self.label_smoothing) + self.label_smoothing * alike

    def draw(self, step):
        """Returns the random numbers of a step, one row per image of this process."""
        last = self._last
        if last[0] != step:  # cached for the other parts of the step
            random = np.random.default_rng((self.seed, step))
            drawn = self._draw(random).items()
            last = self._last = step, {name: rows[self.rows] for name, rows in drawn}
        return last[1]

    def _draw(self, random):
        """Draws the random numbers of a batch, arrays with one row per image."""
        policy, number, (height, width) = self.augmentation, self.batch_size, self.size
        batch = {}
        if policy.random_resized_crop:
            batch["crop"] = draws.crop_attempts(random, number)
        if policy.shift:
            by = random.integers(-policy.shift, policy.shift + 1, (number, 2))
            batch["shift"] = by.astype("int32")
        if policy.flip:
            batch["flip"] = random.random(number) < 0.5
        if policy.rand_augment:
            magnitude = policy.rand_augment
            drawn = draws.rand_augment(random, number, magnitude)
            batch["operations"], batch["strengths"] = drawn
        if policy.erasing:
            boxes = draws.erase_boxes(random, number, height, width, policy.erasing)
            batch["erase"] = boxes
            seeds = random.integers(2**32, size=(number, 2), dtype="uint32")
            batch["noise_seed"] = seeds
        return batch | self.draw_mix(random)

    def draw_mix(self, random):
        """Draws the random numbers for mixing a batch; an empty dict for no mixing."""
        alphas = self.augmentation.mixup_alpha, self.augmentation.cutmix_alpha
        if not any(alphas):
            return {}
        height, width = self.size
        share, weight, box = draws.mix(random, height, width, *alphas)
        return {
            "share": np.full(self.batch_size, share, "float32"),
            "weight": np.full(self.batch_size, weight, "float32"),
            "paste": np.tile(np.array(box, "int32"), (self.batch_size, 1)),
        }

    def _image(self, index, broken):
        """Returns index and image, of the next intact image if this one is broken."""
        if self.in_memory:
            return index, Image.fromarray(self.images[index])
        number = len(self.labels)
        for candidate in ((int(index) + more) % number for more in range(number)):
            try:
                if self.augmentation.random_resized_crop:
                    return candidate, self.images.open(candidate)
                return candidate, Image.fromarray(self.images[candidate])
            except BrokenImageError as error:
                if self.strict:
                    raise
                broken[candidate] = str(error)
        raise ValueError("None of the images can be decoded.")


@functools.lru_cache(maxsize=2)
def image_order(number, seed, epoch):
    """Returns the random order of the images in an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(number)
