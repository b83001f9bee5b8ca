"""Data parallelism over logical CPU devices, and over processes of one machine."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from recipes.training.devices import distribute
from tests.recipes.small import read_log


def start(folder, devices, **variables):
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.recipes.training.multi_device",
            str(devices),
            str(folder),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]


def losses(folder, devices):
    log = read_log(folder / f"{devices}_devices")
    return np.array([[e["loss"], e["val_loss"], e["val_accuracy"]] for e in log])


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The losses on one device."""
    folder = tmp_path_factory.mktemp("one")
    finish(start(folder, 1))
    found = losses(folder, 1)
    assert np.ptp(found[:, 0]) > 0.03  # there is something to agree on
    return found


@pytest.mark.parametrize("devices", [2, 4])
def test_several_devices_give_the_losses_of_one(one, devices, tmp_path):
    finish(start(tmp_path, devices))
    np.testing.assert_allclose(losses(tmp_path, devices), one, rtol=1e-5)


def test_two_processes_give_the_losses_of_one(one, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [
        start(
            tmp_path,
            1,
            KERAS_DISTRIBUTION_JOB_ADDRESSES=f"{address},{address}",
            KERAS_DISTRIBUTION_NUM_PROCESSES="2",
            KERAS_DISTRIBUTION_PROCESS_ID=str(number),
        )
        for number in (0, 1)
    ]
    for process in processes:
        finish(process)
    np.testing.assert_allclose(losses(tmp_path, 1), one, rtol=1e-5)


def test_more_devices_than_a_running_process_has_are_refused():
    assert jax.local_device_count() == 1
    with pytest.raises(ValueError, match="already running with 1 CPU devices"):
        distribute(2, 8)
