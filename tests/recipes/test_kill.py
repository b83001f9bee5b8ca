"""`kill -9`, the same command again: the weights are those of a run without."""

import json
import os
import subprocess
import sys

import pytest

import keras_cbvit
from recipes import train
from recipes.training.callbacks import Checkpoints
from tests.recipes.small import network_options
from tests.tiny import assert_same_values, values

# `test_network.py` and `test_fine_tuning.py` test resuming on each backend.
pytestmark = [pytest.mark.any_backend, pytest.mark.slow]

OPTIONS = [
    *("--epochs", "2", "--warmup-epochs", "1", "--global-batch-size", "256"),
    *("--checkpoint-steps", "2", "--drop-path-rate", "0.5"),
    *("--mixup-alpha", "0.8", "--ema-decay", "0.9", "--flip"),
]

# Killing takes a process of its own; the wrapper kills it after so many steps.
SCRIPT = """
import os, signal, sys
from recipes.train import main
from recipes.training.callbacks import Checkpoints

step, moment, *options = sys.argv[1:]
original = getattr(Checkpoints, moment)

def dies(self, *arguments, **logs):
    if moment == "on_train_batch_end":
        original(self, *arguments, **logs)
    if self.step == int(step):
        os.kill(os.getpid(), signal.SIGKILL)
    if moment != "on_train_batch_end":
        original(self, *arguments, **logs)

setattr(Checkpoints, moment, dies)
main(["digits", *options])
"""


def options(folder):
    return [*OPTIONS, *network_options(), "--run-dir", str(folder)]


def run(folder, die_at, moment="on_train_batch_end"):
    command = [sys.executable, "-c", SCRIPT, str(die_at), moment, *options(folder)]
    return subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_a_killed_run_ends_with_the_weights_of_an_unkilled_one(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.main(["digits", *options(whole)])
    # Between two checkpoints.
    assert run(parts, 3).returncode == -9
    # In the middle of the end of an epoch, after the log is written.
    assert run(parts, 10, "on_epoch_end").returncode == -9
    train.main(["digits", *options(parts)])
    for name in ("model.keras", "model_ema.keras"):
        one, other = (keras_cbvit.ViTCB(weights=f / name) for f in (whole, parts))
        assert_same_values(values(other), values(one))
    checkpoints = Checkpoints(parts / "checkpoints", 5, 2)
    assert checkpoints.newest().name == "step_00000010.weights.h5"
    logs = [(f / "log.jsonl").read_text().splitlines() for f in (whole, parts)]
    for one, other in zip(*logs, strict=True):
        one, other = json.loads(one), json.loads(other)
        for measured in ("images_per_second", "data_wait"):
            del one[measured], other[measured]
        assert one == other
