"""Train, publish and fine-tune a model on handwritten digits, in minutes on a CPU.

    python -m recipes.quickstart

Trains a small ViT with Context Broadcasting, publishes it, loads it by name, plots
predictions for some test images, and fine-tunes the model for another task with
`model.fit`. It takes a few minutes on 2 CPU cores. Repeat the command to
resume an interrupted run.
"""

import dataclasses
import os
import time
from pathlib import Path

import keras
import numpy as np

import keras_cbvit
from keras_cbvit.pretrained.sources import PLACE_VARIABLE

from .configs import digits
from .data.sources import load_dataset
from .evaluation import measure
from .experiment import Run
from .train import train

NAME = "vitcb_mini.digits"
FINE_TUNING_EPOCHS = 5


@dataclasses.dataclass(frozen=True)
class Quickstart:
    """The output folder."""

    folder: Path = Path("runs/quickstart")
    """Folder for all output files."""


def fine_tune(data):
    """Fine-tunes the published weights to tell even digits from odd on wider images."""
    dataset = load_dataset(dataclasses.replace(data, image_size=(16, 24)))
    model = keras_cbvit.ViTCB(weights=NAME, classes=2, input_shape=(16, 24, 3))
    model.compile(
        optimizer=keras.optimizers.AdamW(3e-4),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        dataset.train.images,
        dataset.train.labels % 2,
        batch_size=32,
        epochs=FINE_TUNING_EPOCHS,
        verbose=2,
    )
    test = dataclasses.replace(dataset.test, labels=dataset.test.labels % 2)
    return measure(model, test)["right"]


def draw_predictions(split, decoded, path):
    """Plots images with the two most probable classes of each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7.6), layout="constrained")
    axes = figure.subplots(4, 6).ravel()
    for axis, image, label, best in zip(
        axes, split.images, split.labels, decoded, strict=False
    ):
        axis.imshow(image, interpolation="nearest")
        right = best[0][0] == str(label)
        lines = [f"{name}: {probability:.0%}" for name, probability in best]
        axis.set_title(
            "\n".join(lines) + ("" if right else f"\nis {label}"),
            fontsize=9,
            color="black" if right else "#d55e00",
        )
        axis.axis("off")
    figure.suptitle(f"{NAME}: test images with the two most probable classes")
    figure.savefig(path, dpi=110)


def quickstart(folder):
    """Runs all steps in a folder; returns the accuracies of both tasks."""
    run = Run(
        run_dir=folder / "run",
        publish=NAME,
        weights_dir=folder / "weights",
        overwrite=True,
    )
    experiment = dataclasses.replace(digits.config(), run=run)
    _, dataset = train(experiment, "python -m recipes.quickstart")

    os.environ[PLACE_VARIABLE] = str(run.weights_dir)
    model = keras_cbvit.ViTCB(weights=NAME)
    right = measure(model, dataset.test)["right"]
    examples = dataset.test.first(24)
    predictions = model.predict(examples.images, verbose=0)
    decoded = keras_cbvit.decode_predictions(predictions, NAME, top=2)
    draw_predictions(examples, decoded, folder / "predictions.png")

    right_parity, total = fine_tune(experiment.data), len(dataset.test)
    print(f"Digits: {right} of {total} test images correct ({right / total:.1%}).")
    print(
        f"Even or odd: {right_parity} of {total} correct ({right_parity / total:.1%})."
    )
    return np.array([right, right_parity]) / total


def main(arguments=None):
    from .commands import parse, report_errors

    folder = parse("quickstart", Quickstart, __doc__, arguments).folder
    start = time.perf_counter()
    with report_errors():
        quickstart(folder)
    print(
        f"Finished in {time.perf_counter() - start:.0f} seconds on "
        f"{keras.backend.backend()}. See {folder / 'predictions.png'}, "
        f"{folder / 'run' / 'curves.png'} and the model card in {folder / 'weights'}."
    )


if __name__ == "__main__":
    main()
