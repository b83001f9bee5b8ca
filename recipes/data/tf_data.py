"""Training batches by tf.data and KerasCV, for those who live in TensorFlow.

From the files to the batch, all is TensorFlow's C++, in this process or in the workers
of a tf.data service. Batches have the form of `recipes.data.batches`. TensorFlow
draws what is drawn, and RandAugment is KerasCV's: ten of DeiT's fifteen operations,
some of them weaker or stronger.

It is imported where it is used, since it imports TensorFlow.
"""

import contextlib
import itertools
import os
import re
import types

import numpy as np
import tensorflow as tf

from ..addresses import check_listens
from . import storage
from .decoding import BrokenImageError
from .records import Records
from .storage import Objects
from .tf_decoding import decode

index_shuffle = tf.random.experimental.index_shuffle  # type: ignore  # not in stubs
WITHOUT_END = np.iinfo("int64").max
SERVICE_BYTES = 2**31 - 2**24  # of images in what a service is sent, a protobuf
NAMED = 5  # broken images, in a message


class TensorFlowFeed:
    """Training batches as a `tf.data.Dataset`.

    Which images a batch has, and how they are cropped, mirrored, erased and mixed,
    follows from the seed and the number of the step. RandAugment draws other numbers in
    each start. A picture that cannot be decoded is an error.

    Args:
        batches: a `recipes.data.batches.TrainingBatches`, which says what they hold.
        service: `grpc://HOST:PORT`, the dispatcher of a tf.data service. Each of its
            workers makes whole batches, each batch is made once, and they come in
            nearly their order. `None` to make them in this process.

    Raises:
        ValueError: on what is not done by tf.data here.
        ConnectionError: if there is no service at the address.
    """

    waited = None  # TensorFlow does not say for how long it waits

    def __init__(self, batches, service=None):
        policy = batches.augmentation
        if policy.shift:
            raise ValueError(
                f"shift={policy.shift}: --feed tf.data does not shift images; give "
                "--shift 0, or --feed grain."
            )
        if not (batches.in_memory or policy.random_resized_crop):
            raise ValueError(
                "--feed tf.data takes images that do not fit into memory only with "
                "--random-resized-crop; give that, or --feed grain."
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
        """The batches of the steps from the first on, without end.

        Each is a dict for `recipes.training.mixing.mix`, and the smoothed labels.
        """
        parallel = tf.data.AUTOTUNE
        steps = tf.data.Dataset.range(first, WITHOUT_END)
        images = self.read(steps.map(self._places).unbatch())
        images = images.map(self._prepare, parallel)
        batches = images.batch(self.different, drop_remainder=True).map(self._join)
        if self.service is not None:
            # The elements of the source are dealt out: the steps.
            dealt_out = tf.data.experimental.service.ShardingPolicy.DYNAMIC
            batches = batches.apply(
                tf.data.experimental.service.distribute(dealt_out, self.service)
            )
        if mix := self._mix(first):
            # Of a batch there are so few numbers that NumPy draws them, on the host.
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
    def naming(self):
        """Within it, an error of a picture that cannot be decoded names all of them."""
        try:
            yield
        except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
            broken = self.broken()
            if not broken:
                raise
            names = ", ".join(map(self.batches.images.name, broken[:NAMED]))
            more = ", …" if len(broken) > NAMED else ""
            raise BrokenImageError(
                f"--feed tf.data cannot decode {len(broken)} of {len(self.labels)} "
                f"images, as JPEG or PNG: {names}{more}. Remove them, or give --feed "
                "grain, which reads more formats, and leaves out what is broken."
            ) from error

    def broken(self):
        """The indices of the pictures that cannot be decoded; decodes every one."""
        if self.batches.in_memory:
            return []
        rows = tf.data.Dataset.range(len(self.labels)).map(lambda index: (index, index))
        decoded = self.read(rows).map(
            lambda place, index, picture: (index, tf.shape(decode(picture))),
            tf.data.AUTOTUNE,
        )
        good = {int(index) for index, _ in decoded.ignore_errors().as_numpy_iterator()}
        return sorted(set(range(len(self.labels))) - good)

    def _mix(self, step):
        """What is drawn to mix a batch; an empty dict for no mixing."""
        return self.batches.draw_mix(np.random.default_rng((self.batches.seed, step)))

    def _places(self, step):
        """For the images of a step: places among all that are shown, and indices."""
        steps = self.batches.steps_per_epoch
        row = tf.range(self.different, dtype="int64")
        epoch, step_of_epoch = step // steps, step % steps
        index = index_shuffle(
            step_of_epoch * self.different + row,
            tf.stack([tf.constant(self.batches.seed, "int64"), epoch]),
            tf.constant(len(self.labels) - 1, "int64"),
        )
        return step * self.different + row, index

    def _prepare(self, place, index, picture):
        """All copies of a picture with their boxes to erase, and its label."""
        picture, repeats = decode(picture), self.policy.repeats
        images, boxes = tf.map_fn(
            lambda number: self._copy(picture, number),
            place * repeats + tf.range(repeats, dtype="int64"),
            fn_output_signature=(tf.uint8, tf.int32),
        )
        images = tf.ensure_shape(images, (repeats, *self.batches.size, 3))
        return images, tf.ensure_shape(boxes, (repeats, 4)), self.labels[index]

    def _copy(self, picture, number):
        """An augmented image, uint8, and its box to erase."""
        policy = self.policy
        seeds = tf.stack([tf.constant(self.batches.seed, "int64"), number])
        for_crop, for_flip, for_erasing = tf.unstack(tf.random.split(seeds, 3))
        image = tf.cast(picture, "float32")
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
        """A batch of pictures with their copies in the order of `TrainingBatches`."""
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
        return batch, self.batches.smoothed(tf.cast(labels, "float32"))


def _reader(images, service):
    """A function that adds the pictures to a dataset of places and indices.

    A picture is encoded bytes, or an array that is decoded.
    """
    if isinstance(images, np.ndarray):
        return _of_tensor(images, service)
    encoded = images.encoded
    if isinstance(encoded, Records):
        return _of_records(encoded)
    if isinstance(encoded, Objects):
        raise ValueError(
            "--feed tf.data reads images from disks; give --feed grain, which reads "
            "object stores."
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
            f"--data-service is sent the images that lie in memory, at most "
            f"{SERVICE_BYTES >> 20} MB; these have {number >> 20} MB. Give a folder, "
            "or --feed tf.data without a service."
        )
    with tf.device("CPU"):
        values = tf.constant(values)
    return lambda rows: rows.map(lambda place, index: (place, index, values[index]))


def _of_records(records):
    """Reads each record by its place, as `Records` does."""
    if records.format != ".tfrecord" or storage.is_url(records.paths[0]):
        raise ValueError(
            f"--feed tf.data reads TFRecord files on a disk, not {records.paths[0]}; "
            "give --feed grain."
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
        # Of a file without what stands before and behind, this is the only record.
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
        shape: of the image, `(height, width, 3)`.
        area: range of the share of the image's area.
        ratio: range of width over height.
        seed: of two int64.
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
    """Resizes a float image as Pillow does, bicubic with antialiasing."""
    method = tf.image.ResizeMethod.BICUBIC
    return _round(tf.image.resize(image, size, method, antialias=True))


def _round(image):
    return tf.clip_by_value(tf.round(image), 0, 255)


def erase(image, probability, seed):
    """Fills a box with random bytes, of which `recipes.training.mixing` makes noise.

    Args:
        image: uint8 of shape `(height, width, 3)`.
        probability: with which there is a box.
        seed: of two int64.

    Returns:
        The image, and the box: top, left, bottom, right, int32; it is empty if nothing
        is erased.
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
    """KerasCV's layer of a magnitude of 0–10; `None` for 0."""
    if not magnitude:
        return None
    try:
        import keras_cv
    except ImportError as error:
        raise ValueError(
            f"--feed tf.data takes RandAugment from KerasCV, which is missing "
            f"({error}): pip install keras-cv, or give --rand-augment 0."
        ) from error
    # Its layers draw from the global generator, whose state would be a variable of each
    # device, which no service can be sent. Operations that draw have no variable.
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
        # Whoever asks for it gets a new one.
        tf.random.set_global_generator(None)  # pyright: ignore[reportArgumentType]


def _check_service(address):
    """Raises an error unless something listens; TensorFlow would wait for it."""
    if not re.fullmatch(r"grpc://.+:\d+", address):
        raise ValueError(f"data_service={address!r} must be grpc://HOST:PORT.")
    check_listens(address, "tf.data service", "start its dispatcher first")
