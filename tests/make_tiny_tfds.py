"""Writes `tests/data/tfds/tiny`, a TFDS data set of 40 + 7 pictures of 8x8 pixels.

    KERAS_BACKEND=tensorflow python -m tests.make_tiny_tfds

Run once, where TensorFlow is installed; the tests read the files everywhere.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent / "data" / "tfds"
TRAIN, TEST = range(40), range(40, 47)
CLASS_NAMES = ("even", "odd")


def picture(number):
    """The picture of a number, unlike that of any other; its class is number % 2."""
    pixels = np.full((8, 8, 3), 5 * number, "uint8")
    pixels[number % 8, number // 8] = (255, number, 0)
    return pixels


def prepare(folder, file_format="tfrecord"):
    """Writes the data set into a folder; ArrayRecord files take no TensorFlow."""
    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(8, 8, 3)),
                        "label": tfds.features.ClassLabel(names=CLASS_NAMES),
                    }
                ),
            )

        def _split_generators(self, download_manager):
            return {
                "train": self._generate_examples(TRAIN),
                "test": self._generate_examples(TEST),
            }

        def _generate_examples(self, numbers):
            for number in numbers:
                file = io.BytesIO()
                Image.fromarray(picture(number)).save(file, "PNG")
                file.seek(0)
                yield number, {"image": file, "label": number % 2}

    # Two files for the training images, so that their order matters.
    Tiny(data_dir=folder, file_format=file_format).download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=2)
    )


if __name__ == "__main__":
    prepare(FOLDER)
