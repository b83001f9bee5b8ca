"""Data parallelism over logical CPU devices, and over processes of one machine."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from recipes.training.devices import distribute
from tests.recipes.small import network_options, read_log
from tests.recipes.training import dense
from tests.recipes.training.multi_device import AUGMENTED

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[3] / "docs" / "cluster" / "train.sbatch"


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
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output[-3000:]
    return output


def losses(folder):
    log = read_log(folder)
    return np.array([[e["loss"], e["val_loss"], e["val_accuracy"]] for e in log])


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The losses on one device."""
    folder = tmp_path_factory.mktemp("one")
    finish(start(folder, 1))
    found = losses(folder / "augmented_1")
    assert np.ptp(found[:, 1]) > 0.01  # there is something to agree on
    return found


def test_two_devices_give_the_losses_of_one_and_the_updates_of_torch(one, tmp_path):
    finish(start(tmp_path, 2))
    np.testing.assert_allclose(losses(tmp_path / "augmented_2"), one, rtol=1e-5)
    for case in dense.CASES:
        with np.load(tmp_path / f"{case}_2.npz") as found:
            dense.assert_as_torch(found, case, 1e-5)


def test_four_devices_give_the_updates_of_torch(tmp_path):
    finish(start(tmp_path, 4))
    with np.load(tmp_path / "both_4.npz") as found:
        dense.assert_as_torch(found, "both", 1e-5)


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
    np.testing.assert_allclose(losses(tmp_path / "augmented_1"), one, rtol=1e-5)


SRUN = """#!/bin/bash
# Starts what SLURM would start on one machine for a step of two tasks.
while [[ $1 == --* ]]; do shift; done
export SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_NODES=1
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks[task]=$!
done
for task in 0 1; do wait "${tasks[task]}" || exit; done
"""


def job_of_a_free_port():
    """The number of a SLURM job for which JAX takes a port that is free."""
    for job in range(os.getpid(), os.getpid() + 100):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", 65536 - 2**12 + job % 2**12))
            return job
    raise AssertionError("No port is free.")


def test_the_script_for_slurm_gives_the_losses_of_one(one, tmp_path):
    srun = tmp_path / "srun"
    srun.write_text(SRUN)
    srun.chmod(0o755)
    options = [*network_options(), "--image-size", "8", "8", "--warmup-epochs", "1"]
    options += ["--global-batch-size", "256"]
    options += ["--run-dir", str(tmp_path / "run")]
    for name, value in AUGMENTED.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{option}" if value else f"--no-{option}")
        else:
            options += [f"--{option}", str(value)]
    path = [str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]
    process = subprocess.Popen(
        ["bash", str(SCRIPT), "digits", *options],
        env={
            **os.environ,
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": os.pathsep.join(sys.path),
            "SLURM_JOB_ID": str(job_of_a_free_port()),
            "SLURM_NTASKS": "2",
            "SLURM_CPUS_PER_TASK": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert finish(process).count("Trained 2 epochs") == 1  # both trained the same one
    np.testing.assert_allclose(losses(tmp_path / "run"), one, rtol=1e-5)


def test_more_devices_than_a_running_process_has_are_refused():
    assert jax.local_device_count() == 1
    with pytest.raises(ValueError, match="already running with 1 CPU devices"):
        distribute(2, 8)
