"""Segmentation on one and on two logical CPU devices, in a process of its own.

    python -m tests.recipes.training.segmentation_devices FOLDER

`test_segmentation_devices.py` runs it and looks at what it leaves in the folder. The
network drops nothing and normalizes nothing, so that the numbers must agree.
"""

import sys
from pathlib import Path
from unittest import mock

import keras

from recipes.tasks import segmentation
from recipes.train import train
from tests.recipes.test_segment import small, write_pictures


def stand_in(network, data, classes, dtype):
    images = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(images)
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="features")(x)
    return StandIn(images, keras.layers.Conv2D(classes, 1)(x))


class StandIn(keras.Model):
    """Of the parts of a `SegmentationModel` that training asks for."""

    def with_auxiliary_head(self):
        head = keras.layers.Conv2D(self.output_shape[-1], 3, padding="same")
        features = self.get_layer("features").output
        outputs = {"predictions": self.output, "auxiliary": head(features)}
        return keras.Model(self.input, outputs)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write_pictures(folder / "pictures")
    with mock.patch.object(segmentation, "build_segmenter", stand_in):
        # Two first: before one device is all that the backend made.
        for devices in (2, 1):
            run_dir = folder / f"{devices}_devices"
            train(small(folder / "pictures", run_dir, devices=devices))
