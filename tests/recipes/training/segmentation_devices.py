"""Segmentation on one and on two logical CPU devices, in a process of its own.

    python -m tests.recipes.training.segmentation_devices FOLDER

`test_segmentation_devices.py` runs it and looks at what it leaves in the folder.
Nothing is dropped, since each device draws its own; so the numbers must agree.
"""

import sys
from pathlib import Path
from unittest import mock

import keras

from recipes.train import train
from tests.recipes.test_segment import small, write_pictures


def keep(self, inputs, training=False):
    """In the place of the call of a dropout."""
    return inputs


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write_pictures(folder / "pictures")
    with mock.patch.object(keras.layers.SpatialDropout2D, "call", keep):
        # Two first: before one device is all that the backend made.
        for devices in (2, 1):
            run_dir = folder / f"{devices}_devices"
            lengths = {"evaluation_iterations": 6, "checkpoint_steps": 6}
            train(small(folder / "pictures", run_dir, devices=devices, **lengths))
