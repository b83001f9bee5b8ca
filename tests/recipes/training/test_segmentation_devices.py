"""Segmentation on several devices; on what, `segmentation_devices.py` says."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from recipes.data.segmentation.pairs import load_pairs
from recipes.evaluation.pixels import measure
from tests.recipes.small import read_log
from tests.recipes.test_segment import small

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() == "torch",
        reason="Keras trains on one device with torch.",
    ),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of the runs on one and on two devices, and of their pictures."""
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
    return folder


@pytest.fixture
def logs(folder):
    """The logs of the runs on one and on two devices."""
    return [read_log(folder / f"{devices}_devices") for devices in (1, 2)]


def test_two_devices_give_the_losses_of_one(logs):
    # Each device has other pixels that do not count; their number is the batch's.
    names = ("loss", "predictions_loss", "auxiliary_loss")
    one, two = ([[epoch[name] for name in names] for epoch in log] for log in logs)
    np.testing.assert_allclose(two, one, rtol=1e-5)
    assert one[-1][0] < one[0][0]


def test_two_devices_measure_what_one_does(logs):
    names = ("val_mean_iou", "val_pixel_accuracy")
    one, two = ([[epoch[name] for name in names] for epoch in log] for log in logs)
    # A pixel between two classes may fall to either side.
    np.testing.assert_allclose(two, one, atol=2e-3)


def test_the_saved_model_is_the_one_that_was_evaluated(folder, logs):
    model = keras.saving.load_model(folder / "1_devices" / "model.keras")
    data = small(folder / "pictures", folder).data
    found = measure(model, load_pairs(data).test, data.scale)
    last = logs[0][-1]
    assert last["val_mean_iou"] > 0.5
    for name in ("mean_iou", "pixel_accuracy"):
        assert found[name] == pytest.approx(last[f"val_{name}"], abs=1e-3)
