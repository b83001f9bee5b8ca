"""The input pipelines of other libraries, for `recipes.benchmark` to ask for speed.

It is a program of its own, so that a peer may live in another environment: it
imports nothing of this repository, and each peer only in its own function.

    PYTHON recipes/benchmark_peers.py timm|keras_cv

The first line of stdin is a JSON object: files, image_size, batch_size and workers.
The answer is a JSON object, too: the versions, or what is missing. After it, every line
is a number of images to prepare, and the answer the seconds that it took.
"""

import functools
import json
import os
import sys
import time
from importlib import metadata


def timm(files, image_size, batch_size, workers):
    """DeiT's augmentation by `create_transform`, in the workers of a DataLoader."""
    import torch

    _import_torchvision()
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
            with Image.open(files[index]) as picture:
                return transform(picture.convert("RGB")), 0

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
        return sum(len(images) for images, _ in loader)

    return prepare, ("timm", "torch", "torchvision", "pillow")


def keras_cv(files, image_size, batch_size, workers):
    """KerasCV's nearest layers in tf.data; they crop with bilinear sampling only."""
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
        picture = tf.io.decode_image(
            tf.io.read_file(file), channels=3, expand_animations=False
        )
        return crop(tf.cast(picture, tf.float32))

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
        return sum(len(images) for images in batches(number))

    return prepare, ("keras-cv", "keras", "tensorflow")


def _import_torchvision():
    """Imports torchvision, also one that is made for GPUs beside a torch that is not.

    Its operators do not load there, and it stops where it says more about them. The
    transforms of Pillow's images need none.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", signature)


def main():
    # What libraries print is not to come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(value):
        print(json.dumps(value), file=answers)

    peer = {"timm": timm, "keras_cv": keras_cv}[sys.argv[1]]
    try:
        prepare, packages = peer(**json.loads(sys.stdin.readline()))
    except ImportError as error:
        return answer({"missing": str(error)})
    answer({"versions": {name: metadata.version(name) for name in packages}})
    for line in sys.stdin:
        start = time.perf_counter()
        if prepare(int(line)) != int(line):
            raise RuntimeError(f"{sys.argv[1]} prepared another number of images.")
        answer(time.perf_counter() - start)


if __name__ == "__main__":
    main()
