"""Training batches from tf.data and KerasCV, for users of TensorFlow.

TensorFlow's C++ code does all the work from files to batches, in this process or in the
workers of a tf.data service. Batches have the structure of `recipes.data.batches`, but
TensorFlow draws the random numbers, and KerasCV's RandAugment has ten of DeiT's fifteen
operations, some of them weaker or stronger.

This module imports TensorFlow, so it is imported only on use.
"""

import contextlib
import itertools
import os
import re
import types

import numpy as np
import tensorflow as tf

from keras_cbvit.images import BrokenImageError

from ..addresses import check_listens
from . import storage
from .records import Records
from .storage import Objects
from .tf_decoding import decode

index_shuffle = tf.random.experimental.index_shuffle  # type: ignore  # not in stubs
WITHOUT_END = np.iinfo("int64").max
SERVICE_BYTES = 2**31 - 2**24  # maximum size of images in a service's protobuf
NAMED = 5  # maximum number of broken images in a message


class TensorFlowFeed:
    """Training batches as a `tf.data.Dataset`.

    The images of a batch, and how they are cropped, mirrored, erased and mixed, depend
    only on the seed and the step. RandAugment draws different numbers in each process.
    An image that cannot be decoded is an error.

    Args:
        batches: a `recipes.data.batches.TrainingBatches` that defines the batches.
        service: `grpc://HOST:PORT`, the dispatcher of a tf.data service. Its workers
            make whole batches, each exactly once, which arrive approximately in
            order. `None` to make the batches in this process.

    Raises:
        ValueError: if tf.data does not support an option.
        ConnectionError: if no service listens at the address.
    """

    waited = None  # TensorFlow does not report how long it waits

    def __init__(self, batches, service=None):
        policy = batches.augmentation
        if policy.shift:
            raise ValueError(
                f"shift={policy.shift} is not supported by --feed tf.data; use "
                "--shift 0, or --feed grain."
            )
        if not (batches.in_memory or policy.random_resized_crop):
            raise ValueError(
                "--feed tf.data requires --random-resized-crop for images that do not "
                "fit into memory; add it, or use --feed grain."
            )
        self.batches = batches
        self.policy = policy
        self.service = service
        self.different = -(-batches.batch_size // policy.repeats)
        self.labels = tf.constant(batches.labels)
        self.read = _reader(batches.images, service)
        if service is not None:
            _check_service(service)
        self.rand_augment = _rand_augment(policy.rand_augment)

    def dataset(self, first):
        """Returns an infinite data set of the batches, starting at the given step.

        Elements are a dict for `recipes.training.mixing.mix`, and the smoothed labels.
        """
        parallel = tf.data.AUTOTUNE
        steps = tf.data.Dataset.range(first, WITHOUT_END)
        images = self.read(steps.map(self._places).unbatch())
        images = images.map(self._prepare, parallel)
        batches = images.batch(self.different, drop_remainder=True).map(self._join)
        if self.service is not None:
            # The steps, which are the elements of the source, are distributed.
            dealt_out = tf.data.experimental.service.ShardingPolicy.DYNAMIC
            batches = batches.apply(
                tf.data.experimental.service.distribute(dealt_out, self.service)
            )
        if mix := self._mix(first):
            # These few numbers per batch are drawn by NumPy.
            signature = {
                name: tf.TensorSpec(rows.shape, rows.dtype)
                for name, rows in mix.items()
            }
            mixes = tf.data.Dataset.from_generator(
                lambda: map(self._mix, itertools.count(first)),
                output_signature=signature,
            )
            batches = tf.data.Dataset.zip((batches, mixes)).map(
                lambda batch, mix: (batch[0] | mix, batch[1])
            )
        return batches.prefetch(parallel)

    @contextlib.contextmanager
    def name_broken_images(self):
        """Converts decoding errors into one that lists all broken images."""
        try:
            yield
        except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
            broken = self.find_broken()
            if not broken:
                raise
            names = ", ".join(map(self.batches.images.name, broken[:NAMED]))
            more = ", …" if len(broken) > NAMED else ""
            raise BrokenImageError(
                f"--feed tf.data cannot decode {len(broken)} of {len(self.labels)} "
                f"images as JPEG or PNG: {names}{more}. Remove them, or use --feed "
                "grain, which supports more formats and skips broken images."
            ) from error

    def find_broken(self):
        """Returns the indices of all broken images; decodes the whole data set."""
        if self.batches.in_memory:
            return []
        rows = tf.data.Dataset.range(len(self.labels)).map(lambda index: (index, index))
        decoded = self.read(rows).map(
            lambda place, index, image: (index, tf.shape(decode(image))),
            tf.data.AUTOTUNE,
        )
        good = {int(index) for index, _ in decoded.ignore_errors().as_numpy_iterator()}
        return sorted(set(range(len(self.labels))) - good)

    def _mix(self, step):
        """Draws the random numbers for mixing a batch; an empty dict for no mixing."""
        return self.batches.draw_mix(np.random.default_rng((self.batches.seed, step)))

    def _places(self, step):
        """Returns the sequence numbers and indices of the images of a step."""
        steps = self.batches.steps_per_epoch
        row = tf.range(self.different, dtype="int64")
        epoch, step_of_epoch = step // steps, step % steps
        index = index_shuffle(
            step_of_epoch * self.different + row,
            tf.stack([tf.constant(self.batches.seed, "int64"), epoch]),
            tf.constant(len(self.labels) - 1, "int64"),
        )
        return step * self.different + row, index

    def _prepare(self, place, index, image):
        """Returns all copies of an image, their boxes to erase, and its label."""
        image, repeats = decode(image), self.policy.repeats
        images, boxes = tf.map_fn(
            lambda number: self._copy(image, number),
            place * repeats + tf.range(repeats, dtype="int64"),
            fn_output_signature=(tf.uint8, tf.int32),
        )
        images = tf.ensure_shape(images, (repeats, *self.batches.size, 3))
        return images, tf.ensure_shape(boxes, (repeats, 4)), self.labels[index]

    def _copy(self, image, number):
        """Returns an augmented image, uint8, and its box to erase."""
        policy = self.policy
        seeds = tf.stack([tf.constant(self.batches.seed, "int64"), number])
        for_crop, for_flip, for_erasing = tf.unstack(tf.random.split(seeds, 3))
        image = tf.cast(image, "float32")
        if policy.random_resized_crop:
            box = draw_box(tf.shape(image), (0.08, 1), (3 / 4, 4 / 3), for_crop)
            top, left, bottom, right = tf.unstack(box)
            image = resize(image[top:bottom, left:right], self.batches.size)
        if policy.flip:
            image = tf.image.stateless_random_flip_left_right(image, for_flip)
        if self.rand_augment:
            image = _round(self.rand_augment(image))
        image = tf.cast(tf.ensure_shape(image, (*self.batches.size, 3)), "uint8")
        if not policy.erasing:
            return image, tf.zeros(4, "int32")
        return erase(image, policy.erasing, for_erasing)

    def _join(self, images, boxes, labels):
        """Arranges images and copies in the order of `TrainingBatches`."""
        size, repeats = self.batches.batch_size, self.policy.repeats

        def in_order(copies):
            copies = tf.experimental.numpy.swapaxes(copies, 0, 1)
            return tf.reshape(copies, (-1, *copies.shape[2:]))[:size]

        batch = {"images": in_order(images)}
        if self.policy.erasing:
            batch["erase"] = in_order(boxes)
        labels = tf.tile(labels, [repeats] + [1] * (labels.ndim - 1))[:size]
        if labels.ndim == 1:
            labels = tf.one_hot(labels, self.batches.classes)
        return batch, self.batches.smooth(tf.cast(labels, "float32"))


def _reader(images, service):
    """Returns a function that adds images to a data set of positions and indices.

    Images are encoded bytes, or decoded arrays.
    """
    if isinstance(images, np.ndarray):
        return _of_tensor(images, service)
    encoded = images.encoded
    if isinstance(encoded, Records):
        return _of_records(encoded)
    if isinstance(encoded, Objects):
        raise ValueError(
            "--feed tf.data does not support object stores; use --feed grain, or copy "
            "the images to a disk."
        )
    first = encoded[0]
    if isinstance(first, np.ndarray):
        arrays = [np.asarray(images.open(index)) for index in range(len(images))]
        return _of_tensor(np.stack(arrays), service)
    if isinstance(first, bytes):
        return _of_tensor(list(encoded), service)
    paths = tf.constant([str(path) for path in encoded])
    return lambda rows: rows.map(
        lambda place, index: (place, index, tf.io.read_file(paths[index])),
        tf.data.AUTOTUNE,
    )


def _of_tensor(values, service):
    is_array = isinstance(values, np.ndarray)
    number = values.nbytes if is_array else sum(map(len, values))
    if service is not None and number > SERVICE_BYTES:
        raise ValueError(
            f"--data-service supports at most {SERVICE_BYTES >> 20} MB of images in "
            f"memory, but these have {number >> 20} MB; use a folder of images, or "
            "--feed tf.data without a service."
        )
    with tf.device("CPU"):
        values = tf.constant(values)
    return lambda rows: rows.map(lambda place, index: (place, index, values[index]))


def _of_records(records):
    """Returns a function that reads records by position, as `Records` does."""
    if records.format != ".tfrecord" or storage.is_url(records.paths[0]):
        raise ValueError(
            f"--feed tf.data supports only TFRecord files on disk, not "
            f"{records.paths[0]}; use --feed grain."
        )
    paths = tf.constant(records.paths)
    sizes = tf.constant([os.path.getsize(path) for path in records.paths], "int64")
    files = np.searchsorted(records.ends, np.arange(len(records)), side="right")
    files, starts = tf.constant(files), tf.constant(records.starts)
    lengths = tf.constant(records.lengths)
    form = {records.feature: tf.io.FixedLenFeature((), "string")}

    def read(place, index):
        file, start, length = files[index], starts[index], lengths[index]
        behind = sizes[file] - start - length
        # With everything before and after it skipped, this is the file's only record.
        record = tf.data.FixedLengthRecordDataset(paths[file], length, start, behind)
        return record.map(
            lambda record: (
                place,
                index,
                tf.io.parse_single_example(record, form)[records.feature],
            )
        )

    return lambda rows: rows.interleave(read, num_parallel_calls=tf.data.AUTOTUNE)


def draw_box(shape, area, ratio, seed):
    """Draws a box in an image: top, left, bottom, right, int32.

    Args:
        shape: shape of the image, `(height, width, 3)`.
        area: range of the box's fraction of the image's area.
        ratio: range of width over height.
        seed: two int64 numbers.
    """
    start, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=ratio,
        area_range=area,
    )
    return tf.concat([start[:2], (start + size)[:2]], 0)


def resize(image, size):
    """Resizes a float image like Pillow: bicubic with antialiasing."""
    method = tf.image.ResizeMethod.BICUBIC
    return _round(tf.image.resize(image, size, method, antialias=True))


def _round(image):
    return tf.clip_by_value(tf.round(image), 0, 255)


def erase(image, probability, seed):
    """Fills a box with random bytes, which `recipes.training.mixing` turns into noise.

    Args:
        image: uint8 of shape `(height, width, 3)`.
        probability: probability of erasing a box.
        seed: two int64 numbers.

    Returns:
        The image, and the box: top, left, bottom, right, int32; empty if nothing is
        erased.
    """
    for_choice, for_box, for_noise = tf.unstack(tf.random.split(seed, 3))

    def erased():
        box = draw_box(image.shape, (0.02, 1 / 3), (0.3, 1 / 0.3), for_box)
        top, left, bottom, right = tf.unstack(box)
        noise = tf.random.stateless_uniform(
            (bottom - top, right - left, 3), for_noise, maxval=256, dtype="int32"
        )
        height, width, _ = image.shape
        around = ((top, height - bottom), (left, width - right), (0, 0))
        inside = tf.pad(tf.ones_like(noise, "bool"), around)
        return tf.where(inside, tf.pad(tf.cast(noise, "uint8"), around), image), box

    return tf.cond(
        tf.random.stateless_uniform((), for_choice) < probability,
        erased,
        lambda: (image, tf.zeros(4, "int32")),
    )


def _rand_augment(magnitude):
    """Creates KerasCV's layer for a magnitude of 0–10; returns `None` for 0."""
    if not magnitude:
        return None
    try:
        import keras_cv
    except ImportError as error:
        raise ValueError(
            f"--feed tf.data requires KerasCV for RandAugment ({error}): pip install "
            "keras-cv, or use --rand-augment 0."
        ) from error
    # KerasCV's layers draw from the global generator, whose state is a variable per
    # device, which cannot be sent to a service. Stateful ops have no variable.
    generator = types.SimpleNamespace(uniform=tf.random.uniform)
    tf.random.set_global_generator(generator)  # pyright: ignore[reportArgumentType]
    try:
        return keras_cv.layers.RandAugment(
            value_range=(0, 255),
            augmentations_per_image=2,
            magnitude=magnitude / 10,
            magnitude_stddev=0.05,
            rate=0.5,
        )
    finally:
        # TensorFlow creates a new generator on demand.
        tf.random.set_global_generator(None)  # pyright: ignore[reportArgumentType]


def _check_service(address):
    """Raises an error if no service listens; TensorFlow would wait for it."""
    if not re.fullmatch(r"grpc://.+:\d+", address):
        raise ValueError(f"data_service={address!r} must be grpc://HOST:PORT.")
    check_listens(address, "tf.data service", "start its dispatcher first")
