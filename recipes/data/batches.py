"""From images by index to batches of classifiers, for training and for testing."""

import functools
import types
import warnings

import numpy as np
from PIL import Image

from keras_cbvit.images import BrokenImageError

from . import draws
from .augment import augment
from .feed import Steps

# What the training step does, by its numbers.
ON_DEVICE = "erase", "share", "weight", "paste"
PART = 32  # images, about; a worker process holds a few parts


class _Batches(Steps):
    """What batches for training and for testing have in common."""

    def __init__(self, split, classes, batch_size, part, strict):
        if not len(split):
            raise ValueError("There are no images.")
        first, last = split.labels.min(), split.labels.max()
        if split.labels.ndim == 2:
            first, last = 0, split.labels.shape[1] - 1
        if first < 0 or last >= classes:
            raise ValueError(
                f"The labels go from {first} to {last}, but the {classes} classes "
                f"from 0 to {classes - 1}."
            )
        process, processes = part
        if batch_size % processes:
            raise ValueError(
                f"Batches of {batch_size} images cannot be divided evenly among "
                f"{processes} processes."
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
        """Whether there is nothing to decode."""
        return isinstance(self.images, np.ndarray)

    @property
    def broken_images(self):
        """How many images were left out so far because they cannot be decoded."""
        return self.left_out + len(self.broken)

    def targets(self, indices):
        """The labels of some images, float32 of shape `(images, classes)`."""
        labels = self.labels[indices]
        if labels.ndim == 2:  # several may be right
            return labels.astype("float32")
        one_hot = np.zeros((len(labels), self.classes), "float32")
        one_hot[np.arange(len(labels)), labels] = 1
        return one_hot

    def note_broken(self, found):
        """Counts images that cannot be decoded, and warns of each once.

        Args:
            found: messages by the indices of the images.

        Raises:
            ValueError: if there are no others.
        """
        for index, message in found.items():
            if index not in self.broken:
                self.broken[index] = message
                warnings.warn(f"Left out: {message}", stacklevel=2)
        if len(self.broken) == len(self.labels):
            raise ValueError("None of the images can be decoded.")


class Batches(_Batches):
    """Batches of one size, in order: images, one-hot labels, weights of the images.

    The last batch is filled up with images of weight 0, so that each image counts
    exactly once over any number of devices. Keras divides the loss by the number of
    images with the fillers, the weights make up for them. A broken image has weight
    0, too, and is counted in `broken`; it does not change the accuracy, but Keras's
    loss is too low by its share.

    Args:
        split: a `recipes.data.pictures.Split`.
        classes: how many there are.
        batch_size: images of a batch over all processes.
        part: number of this process, and of how many; it gets its part of each batch.
        strict: whether a broken image is an error.
    """

    def __init__(self, split, classes, batch_size, part=(0, 1), strict=False):
        super().__init__(split, classes, batch_size, part, strict)

    def __len__(self):
        return -(-len(self.labels) // self.batch_size)

    def positions(self, step):
        """The places of a step's images, some of the last beyond the end."""
        return (step * self.batch_size + np.arange(self.batch_size))[self.rows]

    def prepare(self, step, part, arrays):
        """Decodes the images of some rows; returns messages on broken ones."""
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
    """Shuffled batches with what is drawn for their augmentation.

    What a batch holds follows from the seed and the number of the step alone, so
    training can go on at any step. Every batch is full: an epoch leaves out the
    remainder. With `repeats`, a batch has several copies of each image, augmented
    differently, and an epoch sees that much fewer images (repeated augmentation of
    Hoffer et al., as in DeiT).

    Images are augmented by Pillow; an image is decoded once for all its copies, which
    are of one part. Noise and mixing happen on the device (`recipes.training.mixing`).

    Args:
        split: a `recipes.data.pictures.Split`.
        classes: how many there are.
        batch_size: images of a step over all processes.
        augmentation: a `recipes.options.classification.Augmentation`.
        label_smoothing: share of a label that goes to all classes alike, or, where
            several may be right, to 1/2.
        seed: of everything that is drawn.
        part: number of this process, and of how many; it gets its part of each batch.
        strict: whether a broken image is an error; otherwise the next one that is
            not takes its place, and it is counted in `broken`.

    Raises:
        ValueError: on labels that are no classes, or too large a batch.
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
                f"global_batch_size={batch_size} is more than the {len(split)} "
                "training images; use a smaller one."
            )
        # Not the options, whose module imports Keras, which workers do not.
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
        """The images of a step, over all processes."""
        epoch, step = divmod(step, self.steps_per_epoch)
        order = shuffled(len(self.labels), self.seed, epoch)
        repeats = self.augmentation.repeats
        different = -(-self.batch_size // repeats)
        first = step * different
        # Copies stand far from each other, so that mixing hardly ever pairs them.
        return np.tile(order[first : first + different], repeats)[: self.batch_size]

    def prepare(self, step, part, arrays):
        """Augments the images of some rows, and smooths their labels.

        Returns:
            Messages on broken images by their indices.
        """
        indices = self.indices(step)[self.rows]
        broken = {}
        drawn = self.drawn(step)
        for index in np.unique(indices)[part :: self.parts]:
            replacement, picture = self._picture(index, broken)
            rows = np.flatnonzero(indices == index)
            for row in rows.tolist():
                numbers = {name: values[row] for name, values in drawn.items()}
                arrays["images"][row] = augment(picture, self.size, numbers)
            label = self.targets(np.array([replacement]))
            arrays["labels"][rows] = self.smoothed(label)
        return broken

    def join(self, step, arrays, found):
        """A dict for `recipes.training.mixing.mix`, and the smoothed labels."""
        for broken in found:
            self.note_broken(broken)
        drawn = self.drawn(step)
        batch = {name: drawn[name] for name in ON_DEVICE if name in drawn}
        return batch | {"images": arrays["images"]}, arrays["labels"]

    def smoothed(self, targets):
        """Labels of shape `(images, classes)` with label smoothing.

        Towards all classes alike, or, where several may be right, towards 1/2 each.
        """
        alike = 1 / self.classes if self.labels.ndim == 1 else 0.5
        return targets * (1 - self.label_smoothing) + self.label_smoothing * alike

    def drawn(self, step):
        """What is drawn for a step: arrays with a row for each of its images here."""
        last = self._last
        if last[0] != step:  # the parts of a step share it
            random = np.random.default_rng((self.seed, step))
            drawn = self._draw(random).items()
            last = self._last = step, {name: rows[self.rows] for name, rows in drawn}
        return last[1]

    def _draw(self, random):
        """What is drawn for a batch: arrays with a row for each image."""
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
        """What is drawn to mix a batch, of `_draw`; an empty dict for no mixing."""
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

    def _picture(self, index, broken):
        """An image's index and the image, or those of the next that is not broken."""
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
def shuffled(number, seed, epoch):
    return np.random.default_rng((seed, epoch)).permutation(number)
