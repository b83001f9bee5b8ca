"""Segmentation on several devices; on what, `segmentation_devices.py` says."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.recipes.small import read_log

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() == "torch",
        reason="Keras trains on one device with torch.",
    ),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """The logs of the runs on one and on two devices."""
    folder = tmp_path_factory.mktemp("devices")
    module = "tests.recipes.training.segmentation_devices"
    result = subprocess.run(
        [sys.executable, "-m", module, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return [read_log(folder / f"{devices}_devices") for devices in (1, 2)]


def test_two_devices_give_the_losses_of_one(logs):
    # Each device has other pixels that do not count; their number is the batch's.
    names = ("loss", "predictions_loss", "auxiliary_loss")
    one, two = ([[epoch[name] for name in names] for epoch in log] for log in logs)
    np.testing.assert_allclose(two, one, rtol=1e-5)
    assert one[1][0] < one[0][0]


def test_two_devices_measure_what_one_does(logs):
    names = ("val_mean_iou", "val_pixel_accuracy")
    one, two = ([[epoch[name] for name in names] for epoch in log] for log in logs)
    # A pixel between two classes may fall to either side.
    np.testing.assert_allclose(two, one, atol=2e-3)
