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
from recipes.network import build_classifier
from recipes.options.classification import Augmentation
from recipes.train import train
from recipes.training import states
from recipes.training.devices import distribute
from recipes.training.optimizer import build_optimizer
from recipes.training.schedule import WarmupCosine
from tests.recipes.small import SMALL, interrupted, small
from tests.recipes.training import dense


def variations(folder):
    """On two devices: other precisions, for an epoch."""
    for precision in ("bfloat16", "float16"):
        options = {"epochs": 1, "precision": f"mixed_{precision}"}
        train(small(folder / precision, devices=2, **options))


def augmented(folder, devices):
    """All of the augmentation, and gradients in two parts."""
    policy = dataclasses.asdict(Augmentation(shift=1, repeats=2))
    policy |= {"accumulation_steps": 2, "clip_norm": 0.1}
    train(small(folder / "augmented", devices=devices, epochs=2, **policy))


def averages(folder):
    """All that the optimizer does, on two devices and on one.

    On two it is interrupted, and goes on after the ninth step, in the middle of an
    update.
    """
    options = {"ema_decay": 0.9, "layer_decay": 0.5, "head_warmup_epochs": 1}
    options |= {"broadcast": "cbs", "anneal_context": 5, "epochs": 2}
    options |= {"accumulation_steps": 2, "clip_norm": 0.1}
    experiment = small(folder / "averages_2", devices=2, **options)
    with interrupted(step=10):
        train(experiment)
    train(experiment)
    train(small(folder / "averages_1", devices=1, **options))


def dense_layers(folder, devices):
    """Clipping and accumulation, of gradients that differ by device."""
    for case in dense.CASES if devices == 2 else ["both"]:
        layer = dense.build(case, devices)
        dense.train(layer)
        np.savez(folder / f"{case}_{devices}.npz", **dense.state(layer))


def mixed_dense_layers(folder):
    """Both at once in other precisions; in float16 with infinities, too."""
    for precision in ("bfloat16", "float16"):
        layer = dense.build("both", 2, f"mixed_{precision}")
        dense.train(layer)
        np.savez(folder / f"both_{precision}.npz", **dense.state(layer))
    layer = dense.build("both", 2, "mixed_float16")
    dense.train(layer, last=3)
    dense.train(layer, first=3, last=4, infinity=0)  # on the first device
    dense.train(layer, first=3, last=4, infinity=7)  # on the second
    dense.train(layer, first=3)
    np.savez(folder / "both_infinity.npz", **dense.state(layer))


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


def decoded_at_each_use(folder, devices):
    """The images do not fit into memory."""
    with mock.patch.object(images, "MEMORY_BYTES", 0):
        train(small(folder / f"{devices}_devices", devices=devices))


def infinite_pixel(folder):
    """A step in float16 with an infinite pixel on one of two replicas, then without."""
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (8, 8, 8, 3)).astype("float32")
    labels = np.eye(10)[random.integers(0, 10, 8)]
    with distribute(2, len(images)):
        model = build_classifier(SMALL.network, SMALL.data, 10, "mixed_float16")
        model.compile(
            optimizer=build_optimizer(
                SMALL.training, WarmupCosine.of(SMALL.training, 10), model, 10
            ),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        )
    results = {}

    def step(name, images):
        history = model.fit(
            images, labels, batch_size=8, shuffle=False, verbose=0
        ).history
        results[f"{name}/loss"] = history["loss"][0]
        results[f"{name}/iterations"] = model.optimizer.iterations.numpy()
        for variable in model.trainable_variables:
            replicas = model.distribute_strategy.experimental_local_results(
                variable.value
            )
            results[f"{name}/{variable.path}"] = [
                replica.numpy() for replica in replicas
            ]

    step("first", images)
    for replica in (0, 1):
        spoiled = images.copy()
        spoiled[4 * replica, 0, 0] = np.inf
        step(f"infinite_on_{replica}", spoiled)
    step("last", images)
    np.savez(folder / "infinite_pixel.npz", **results)


if __name__ == "__main__":
    devices, folder = int(sys.argv[1]), Path(sys.argv[2])
    tensorflow = keras.backend.backend() == "tensorflow"
    if devices == 2 and tensorflow:
        variations(folder)  # first, before one device is all that TensorFlow made
        train(small(folder / "1_devices", devices=1))
        infinite_pixel(folder)
        averages(folder)
        mixed_dense_layers(folder)
        interrupted_dense_layer(folder)
        decoded_at_each_use(folder, devices)
    else:
        train(small(folder / f"{devices}_devices", devices=devices))
    if devices < 4:
        augmented(folder, devices)
    if devices > 1:
        dense_layers(folder, devices)
