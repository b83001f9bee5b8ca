"""Trains on several logical CPU devices, in a process of its own for each number.

    python -m tests.recipes.training.multi_device 2 FOLDER

`test_devices_tensorflow.py` and `test_devices_jax.py` run it and look at what it leaves
in the folder.
"""

import dataclasses
import sys
from pathlib import Path
from unittest import mock

import keras
import numpy as np

from recipes.data import images
from recipes.options.classification import Augmentation
from recipes.train import train
from recipes.training import states
from tests.recipes.small import small
from tests.recipes.training import dense

# All that the optimizer does.
UPDATES = {
    "ema_decay": 0.9,
    "layer_decay": 0.5,
    "head_warmup_epochs": 1,
    "broadcast": "cbs",
    "anneal_context": 5,
    "accumulation_steps": 2,
    "clip_norm": 0.1,
    "base_learning_rate": 0.2,
}
AUGMENTED = {
    **dataclasses.asdict(Augmentation(shift=1, repeats=2)),
    "accumulation_steps": 2,
    "clip_norm": 0.1,
    "base_learning_rate": 0.2,
    "epochs": 2,
}


def updates(folder):
    """On two devices, in float32 and in float16, and on one.

    In float32 the images do not fit into memory, so they are decoded at each use.
    `tf_data_runs.py` resumes the same on two devices.
    """
    options = {**UPDATES, "checkpoint_steps": 100}
    train(small(folder / "float16", devices=2, precision="mixed_float16", **options))
    with mock.patch.object(images, "MEMORY_BYTES", 0):
        train(small(folder / "2_devices", devices=2, **options))
    train(small(folder / "1_devices", devices=1, **options))


def augmented(folder, devices, **changes):
    """All of the augmentation, and gradients in two parts."""
    run_dir = folder / f"augmented_{devices}"
    train(small(run_dir, devices=devices, **AUGMENTED, **changes))


def dense_layers(folder, devices):
    """Clipping and accumulation, of gradients that differ by device."""
    for case in dense.CASES if devices == 2 else ["both"]:
        layer = dense.build(case, devices)
        dense.train(layer)
        np.savez(folder / f"{case}_{devices}.npz", **dense.state(layer))


def mixed_dense_layers(folder):
    """In bfloat16, and in float16 with infinities."""
    layer = dense.build("both", 2, "mixed_bfloat16")
    dense.train(layer)
    np.savez(folder / "both_bfloat16.npz", **dense.state(layer))
    for case in ("clip", "both"):
        layer = dense.build(case, 2, "mixed_float16")
        dense.train(layer, last=3)
        dense.train(layer, first=3, last=4, infinity=0)  # on the first device
        dense.train(layer, first=3, last=4, infinity=7)  # on the second
        dense.train(layer, first=3)
        np.savez(folder / f"{case}_float16.npz", **dense.state(layer))


def interrupted_dense_layer(folder):
    """After the third step, the first of the second update."""
    layer = dense.build("both", 2)
    dense.train(layer, last=3)
    np.savez(folder / "both_half.npz", **dense.state(layer))
    states.save(layer, folder / "half.weights.h5")
    layer = dense.build("both", 2)
    states.load(layer, states.read(folder / "half.weights.h5"))
    dense.train(layer, first=3)
    np.savez(folder / "both_interrupted.npz", **dense.state(layer))


if __name__ == "__main__":
    devices, folder = int(sys.argv[1]), Path(sys.argv[2])
    if devices < 4 and keras.backend.backend() == "jax":
        augmented(folder, devices)
    elif devices == 2:
        updates(folder)
        augmented(folder, devices, precision="mixed_bfloat16")
        mixed_dense_layers(folder)
        interrupted_dense_layer(folder)
    if devices > 1:
        dense_layers(folder, devices)
