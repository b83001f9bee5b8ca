"""Tiny ImageNet-V2, ImageNet-A and ReaL: in TFDS's files, and as folders.

    KERAS_BACKEND=tensorflow python -m tests.recipes.evaluation.imagenet_sets

writes `tests/data/tfds/imagenet_v2`, `imagenet_a` and `imagenet2012_real`: TFDS's own
builders make them from folders and archives with few pictures. Run once, where
TensorFlow is installed; the tests read the files everywhere.
"""

import tarfile
import tempfile
from pathlib import Path
from unittest import mock

import keras
import numpy as np

from tests.recipes.imagenet import FOLDER, _add, jpeg, validation_pictures

REAL_LABELS = FOLDER.parent / "real.json"
"""The labels of ImageNet's first 100 validation images as ReaL has them."""
# The numbers of the pictures of each class, see `tests.recipes.imagenet`.
IMAGENET_V2 = {2: (1, 2), 10: (3,), 100: (4,)}
IMAGENET_A = {"n01440764": (1,), "n02105855": (2, 3), "n15075141": (4, 5)}
"""Of ImageNet's 1000 classes these are 0, 230 and 999."""


def write_classes(folder, classes):
    """Writes pictures into a folder for each class."""
    for name, numbers in classes.items():
        (folder / str(name)).mkdir(parents=True)
        for number in numbers:
            (folder / str(name) / f"{number}.jpeg").write_bytes(jpeg(number))
    return folder


def write_validation(folder):
    """Writes ImageNet's first five validation images, in folders of two classes."""
    for name, number in validation_pictures():
        place = folder / f"class_{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(jpeg(number))
    return folder


def model_that_answers(answers, above=None, classes=1000):
    """A classifier of pictures by their red, that knows a class for each number.

    Args:
        answers: the class by the number of the picture; all different.
        above: a class that it is always more certain of.
        classes: how many there are.
    """
    images = keras.Input((8, 8, 3))
    means = keras.layers.GlobalAveragePooling2D()(images)
    outputs = keras.layers.Dense(classes)(means)
    model = keras.Model(images, outputs)
    kernel, bias = np.zeros((3, classes)), np.full(classes, -1e5)
    for number, answer in answers.items():
        # The largest 2rv - v² is that of the v nearest to r.
        kernel[0, answer], bias[answer] = 20 * number, -((10 * number) ** 2)
    if above is not None:
        bias[above] = 1e5
    model.set_weights([kernel, bias])
    return model


def main():
    import tensorflow_datasets as tfds

    def prepare(name, folder):
        config = tfds.download.DownloadConfig(
            manual_dir=folder, num_shards=1, try_download_gcs=False
        )
        builder = tfds.builder(name, data_dir=FOLDER)
        with (
            mock.patch.object(
                tfds.download.DownloadManager, "download_and_extract", lambda *_: folder
            ),
            mock.patch.object(
                tfds.download.DownloadManager, "download", lambda *_: REAL_LABELS
            ),
        ):
            builder.download_and_prepare(download_config=config)

    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder, "imagenetv2-matched-frequency-format-val")
        write_classes(top, IMAGENET_V2)
        prepare("imagenet_v2", folder)
        write_classes(Path(folder, "imagenet-a"), IMAGENET_A)
        prepare("imagenet_a", folder)
        with tarfile.open(f"{folder}/ILSVRC2012_img_val.tar", "w") as archive:
            for name, number in validation_pictures():
                _add(archive, name, jpeg(number))
        prepare("imagenet2012_real", folder)


if __name__ == "__main__":
    main()
