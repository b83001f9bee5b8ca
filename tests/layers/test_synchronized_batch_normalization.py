import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_cbvit.layers import SynchronizedBatchNormalization
from tests.compare import assert_close
from tests.round_trip import round_trip

X = np.array([[1.0], [2.0], [11.0], [14.0]], "float32")


def test_it_normalizes_by_the_batch_and_keeps_a_tenth_of_its_statistics():
    layer = SynchronizedBatchNormalization()
    expected = (X - 7) / np.sqrt(31.5 + 1e-5)  # the mean and variance of 1, 2, 11, 14
    assert_close(layer(X, training=True), expected, atol=1e-5)
    assert_close(layer.moving_mean, [0.7])
    assert_close(layer.moving_variance, [0.9 + 3.15], atol=1e-5)
    assert_close(layer(X), (X - 0.7) / np.sqrt(4.05 + 1e-5), atol=1e-5)


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras trains on one torch device."
)
def test_two_devices_share_the_statistics_of_the_whole_batch(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "tests.layers.synchronized", tmp_path / "found.npy"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    loss, mean, variance = np.load(tmp_path / "found.npy")
    # Were each half normalized by itself, the variances would be 0.25 and 2.25.
    assert mean == pytest.approx(0.7, rel=1e-5)
    assert variance == pytest.approx(0.9 + 3.15, rel=1e-5)
    assert loss == pytest.approx(1, rel=1e-4)


def test_its_configuration_is_for_every_backend():
    layer = round_trip(SynchronizedBatchNormalization, name="norm", dtype="bfloat16")
    assert "synchronized" not in layer.get_config()
    assert layer.synchronized == (keras.backend.backend() == "tensorflow")
