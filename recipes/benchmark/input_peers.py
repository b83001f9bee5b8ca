"""Input pipelines for `recipes.benchmark.input`, each run in a separate process.

A request is a number of images to prepare; the answer is the time in seconds.
"""

import collections
import functools
import itertools
import os
import time
from pathlib import Path

from .peer import serve


def keras_cbvit(files, image_size, batch_size, workers, repeats):
    """Runs this package's pipeline, with `repeats` copies of each image in a batch."""
    from ..data.feed import Feed

    feed = Feed(_training_batches(files, image_size, batch_size, repeats))
    last = 0

    def prepare(number):
        nonlocal last
        steps = number // batch_size
        # Worker processes start on each call of `read`. These batches before and after
        # the measured ones keep all workers busy during the measurement.
        more = feed.ahead if feed.workers else 0
        first, last = last, last + steps + 2 * more
        read = feed.read(first, last)
        collections.deque(itertools.islice(read, more), maxlen=0)
        return (len(batch["images"]) for batch, _ in itertools.islice(read, steps))

    return _responder(prepare), ("keras", "numpy", "pillow")


def tf_data(files, image_size, batch_size, workers, repeats):
    """Runs this package's pipeline with `--feed tf.data`."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras_cv  # noqa: F401  # reports it as missing early

    from ..data.tf_data import TensorFlowFeed

    batches = _training_batches(files, image_size, batch_size, repeats)
    feed = TensorFlowFeed(batches)

    # Restarted on each call; otherwise it would prefetch while others are measured.
    @functools.cache
    def dataset(number):
        return feed.dataset(0).take(number // batch_size)

    def prepare(number):
        return (len(batch["images"]) for batch, _ in dataset(number))

    return _responder(prepare), ("keras-cv", "keras", "tensorflow")


def _training_batches(files, image_size, batch_size, repeats):
    import numpy as np

    from ..data.batches import TrainingBatches
    from ..data.images import Images, Split
    from ..options.classification import Augmentation, Data

    # A data set smaller than a batch would give no batches.
    files = files * -(-batch_size // len(files))
    data = Data(image_size=(image_size, image_size))
    split = Split(
        Images([Path(file) for file in files], data, originals=True),
        np.zeros(len(files), "int64"),
    )
    # Without mixing, which is part of the training step, as in the other pipelines.
    policy = Augmentation(repeats=repeats, mixup_alpha=0.0, cutmix_alpha=0.0)
    return TrainingBatches(split, 1, batch_size, policy, seed=0)


def timm(files, image_size, batch_size, workers):
    """Runs DeiT's augmentation from `create_transform` in a DataLoader's workers."""
    import torch

    import_torchvision()
    from PIL import Image
    from timm.data import create_transform

    transform = create_transform(
        image_size,
        is_training=True,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
    )

    class Photographs(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            with Image.open(files[index]) as image:
                return transform(image.convert("RGB")), 0

    class Order(torch.utils.data.Sampler):
        number = batch_size

        def __iter__(self):
            return (int(torch.randint(len(files), ())) for _ in range(self.number))

        def __len__(self):
            return self.number

    order = Order()
    loader = torch.utils.data.DataLoader(
        Photographs(),
        batch_size,
        sampler=order,
        num_workers=workers,
        persistent_workers=True,
    )

    def prepare(number):
        order.number = number
        return (len(images) for images, _ in loader)

    return _responder(prepare), ("timm", "torch", "torchvision", "pillow")


def keras_cv(files, image_size, batch_size, workers):
    """Runs KerasCV's closest layers in tf.data; they crop with bilinear sampling."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras_cv
    import tensorflow as tf

    layers = keras_cv.layers
    crop = layers.RandomCropAndResize(
        (image_size, image_size),
        crop_area_factor=(0.08, 1.0),
        aspect_ratio_factor=(3 / 4, 4 / 3),
    )
    augment = [
        layers.RandomFlip("horizontal"),
        layers.RandAugment(
            value_range=(0, 255),
            augmentations_per_image=2,
            magnitude=0.9,
            magnitude_stddev=0.05,
            rate=0.5,
        ),
        layers.RandomApply(
            layers.RandomCutout((0.1, 0.6), (0.1, 0.6), fill_mode="gaussian_noise"),
            rate=0.25,
        ),
    ]

    def read(file):
        image = tf.io.decode_image(
            tf.io.read_file(file), channels=3, expand_animations=False
        )
        return crop(tf.cast(image, tf.float32))

    def augment_batch(images):
        for layer in augment:
            images = layer(images)
        return images

    @functools.cache
    def batches(number):
        return (
            tf.data.Dataset.from_tensor_slices(files)
            .shuffle(len(files))
            .repeat()
            .take(number)
            .map(read, num_parallel_calls=tf.data.AUTOTUNE)
            .batch(batch_size)
            .map(augment_batch, num_parallel_calls=tf.data.AUTOTUNE)
            .prefetch(tf.data.AUTOTUNE)
        )

    def prepare(number):
        return map(len, batches(number))

    return _responder(prepare), ("keras-cv", "keras", "tensorflow")


def _responder(prepare):
    """Returns a function that measures the time to prepare a number of images.

    Args:
        prepare: function from the number of images to an iterator over batch sizes.
    """

    def respond(number):
        sizes = prepare(number)
        start = time.perf_counter()
        if (prepared := sum(sizes)) != number:
            raise RuntimeError(f"{prepared} images were prepared, not {number}.")
        return time.perf_counter() - start

    return respond


def import_torchvision():
    """Imports torchvision, even a CUDA build next to a CPU build of torch.

    In this case torchvision's operators do not load and the import fails where it
    registers them. The transforms of Pillow images do not require them.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", signature)


if __name__ == "__main__":
    serve(
        {
            "keras_cbvit": keras_cbvit,
            "tf_data": tf_data,
            "timm": timm,
            "keras_cv": keras_cv,
        }
    )
