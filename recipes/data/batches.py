"""From images by index to batches for `fit`, `evaluate` and `predict`."""

import collections
import functools
import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
from PIL import Image

from . import draws
from .augment import augment
from .decoding import BrokenImageError

AHEAD = 3  # batches that are prepared while the device computes
MIXING = "share", "weight", "paste"  # what the training step does, by its numbers


@functools.cache
def decoders():
    """The threads that decode and augment images.

    Pillow works without Python's lock, so threads use every core.
    """
    if hasattr(os, "sched_getaffinity"):
        # A job may have fewer cores than the machine.
        return ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    return ThreadPoolExecutor(os.cpu_count())


class _Batches:
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
        self.split = split
        self.classes = classes
        self.batch_size = batch_size
        self.rows = slice(process * rows, (process + 1) * rows)
        self.strict = strict
        self.broken = {}

    @property
    def broken_images(self):
        """How many pictures were left out so far because they cannot be decoded."""
        return self.split.broken + len(self.broken)

    def targets(self, indices):
        """The labels of some images, float32 of shape `(images, classes)`."""
        labels = self.split.labels[indices]
        if labels.ndim == 2:  # several may be right
            return labels.astype("float32")
        return np.eye(self.classes, dtype="float32")[labels]

    def note_broken(self, index, error):
        """Counts a picture that cannot be decoded, or raises if none is to be."""
        if self.strict:
            raise error
        if index not in self.broken:
            self.broken[index] = str(error)
            warnings.warn(f"Left out: {error}", stacklevel=2)
        if len(self.broken) == len(self.split):
            raise ValueError("None of the pictures can be decoded.") from error


class Batches(_Batches, keras.utils.PyDataset):
    """Batches of one size, in order: images, one-hot labels, weights of the images.

    The last batch is filled up with images of weight 0, so that each image counts
    exactly once over any number of devices. Keras divides the loss by the number of
    images with the fillers, the weights make up for them. A broken picture has weight
    0, too, and is counted in `broken`; it does not change the accuracy, but Keras's
    loss is too low by its share.

    Args:
        split: a `recipes.data.pictures.Split`.
        classes: how many there are.
        batch_size: images of a batch over all processes.
        part: number of this process, and of how many; it gets its part of each batch.
        strict: whether a broken picture is an error.
    """

    def __init__(self, split, classes, batch_size, part=(0, 1), strict=False):
        _Batches.__init__(self, split, classes, batch_size, part, strict)
        # Two workers are what makes Keras prepare batches ahead.
        keras.utils.PyDataset.__init__(self, workers=2)

    def __len__(self):
        return -(-len(self.split) // self.batch_size)

    def __getitem__(self, step):
        number = len(self.split)
        indices = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        indices = indices[self.rows]
        weight = len(self) * self.batch_size / number
        weights = np.where(indices < number, weight, 0).astype("float32")
        indices = np.minimum(indices, number - 1)
        images = self.split.images
        if isinstance(images, np.ndarray):
            images = images[indices]
        else:
            decoded = list(decoders().map(self._picture, indices))
            weights[[image is None for image in decoded]] = 0
            black = np.zeros((*images.size, 3), "uint8")
            images = np.stack([black if i is None else i for i in decoded])
        return images, self.targets(indices), weights

    def _picture(self, index):
        try:
            return self.split.images[index]
        except BrokenImageError as error:
            self.note_broken(index, error)
            return None


class Steps:
    """Training batches by the number of the step, made in threads ahead of use."""

    def __getitem__(self, step):
        """What `fit` takes for a step; it follows from the number alone."""
        raise NotImplementedError

    def read(self, first_step, last_step):
        """Yields the batches of the steps from the first on, before the last.

        Some are prepared ahead.
        """
        with ThreadPoolExecutor(AHEAD) as assemblers:
            waiting = collections.deque()
            for step in range(first_step, last_step):
                waiting.append(assemblers.submit(self.__getitem__, step))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def for_fit(self, first_step, last_step):
        """The same, as `fit` takes it.

        With several replicas on TensorFlow, `fit` takes batches to build the model and
        begins again, which a generator cannot.
        """
        if keras.backend.backend() != "tensorflow":
            return self.read(first_step, last_step)
        import tensorflow as tf

        return tf.data.Dataset.from_generator(
            lambda: self.read(first_step, last_step),
            output_signature=tf.nest.map_structure(
                lambda values: tf.TensorSpec(values.shape, values.dtype),
                self[first_step],
            ),
        )


class TrainingBatches(_Batches, Steps):
    """Shuffled batches with what is drawn for their augmentation.

    What a batch holds follows from the seed and the number of the step alone, so
    training can go on at any step. Every batch is full: an epoch leaves out the
    remainder. With `repeats`, a batch has several copies of each image, augmented
    differently, and an epoch sees that much fewer images (repeated augmentation of
    Hoffer et al., as in DeiT).

    Images are augmented by Pillow in threads, which decode an image once for all its
    copies. Mixing happens on the device (`recipes.training.mixing`).

    Args:
        split: a `recipes.data.pictures.Split`.
        classes: how many there are.
        batch_size: images of a step over all processes.
        augmentation: a `recipes.options.classification.Augmentation`.
        label_smoothing: share of a label that goes to all classes alike, or, where
            several may be right, to 1/2.
        seed: of everything that is drawn.
        part: number of this process, and of how many; it gets its part of each batch.
        strict: whether a broken picture is an error; otherwise the next one that is
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
        self.augmentation = augmentation
        self.label_smoothing = label_smoothing
        self.seed = seed
        images = split.images
        in_memory = isinstance(images, np.ndarray)
        self.size = images.shape[1:3] if in_memory else images.size

    @property
    def steps_per_epoch(self):
        return len(self.split) // self.batch_size

    def indices(self, step):
        """The images of a step, over all processes."""
        epoch, step = divmod(step, self.steps_per_epoch)
        order = shuffled(len(self.split), self.seed, epoch)
        repeats = self.augmentation.repeats
        different = -(-self.batch_size // repeats)
        first = step * different
        # Copies stand far from each other, so that mixing hardly ever pairs them.
        return np.tile(order[first : first + different], repeats)[: self.batch_size]

    def __getitem__(self, step):
        """A dict for `recipes.training.mixing.mix`, and the smoothed labels."""
        indices = self.indices(step)[self.rows]
        random = np.random.default_rng((self.seed, step))
        drawn = {name: rows[self.rows] for name, rows in self._draw(random).items()}
        batch = {name: drawn.pop(name) for name in MIXING if name in drawn}
        batch["images"], indices = self._images(indices, drawn)
        smoothing = self.label_smoothing
        # Towards all classes alike, or, where several may be right, towards 1/2 each.
        alike = 1 / self.classes if self.split.labels.ndim == 1 else 0.5
        return batch, self.targets(indices) * (1 - smoothing) + smoothing * alike

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
        if policy.mixup_alpha or policy.cutmix_alpha:
            alphas = policy.mixup_alpha, policy.cutmix_alpha
            share, weight, box = draws.mix(random, height, width, *alphas)
            batch["share"] = np.full(number, share, "float32")
            batch["weight"] = np.full(number, weight, "float32")
            batch["paste"] = np.tile(np.array(box, "int32"), (number, 1))
        return batch

    def _images(self, indices, drawn):
        """The augmented images as one array, and the indices with replacements'."""
        dtype = "int16" if "erase" in drawn else "uint8"
        images = np.empty((len(indices), *self.size, 3), dtype)

        def decode(index):
            copies = np.flatnonzero(indices == index)
            replacement, picture = self._picture(index)
            for row in copies:
                numbers = {name: values[row] for name, values in drawn.items()}
                images[row] = augment(picture, self.size, numbers)
            return copies, replacement

        used = indices.copy()
        for copies, replacement in decoders().map(decode, np.unique(indices)):
            used[copies] = replacement
        return images, used

    def _picture(self, index):
        """An image's index and the image, or those of the next that is not broken."""
        images = self.split.images
        if isinstance(images, np.ndarray):
            return index, Image.fromarray(images[index])
        for following in range(len(images)):
            candidate = (index + following) % len(images)
            try:
                if self.augmentation.random_resized_crop:
                    return candidate, images.open(candidate)
                return candidate, Image.fromarray(images[candidate])
            except BrokenImageError as error:
                self.note_broken(candidate, error)
        raise AssertionError("note_broken raises if all are broken")


@functools.lru_cache(maxsize=2)
def shuffled(number, seed, epoch):
    return np.random.default_rng((seed, epoch)).permutation(number)
