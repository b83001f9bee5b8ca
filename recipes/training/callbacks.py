"""Checkpoints, logs and the alarm of a training run."""

import csv
import json
import math
import os
import time
import warnings
from pathlib import Path

import h5py
import keras
import numpy as np


class NonFiniteLossError(FloatingPointError):
    """The loss or a weight of a training run is NaN or infinite."""


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Stops at the step whose loss is not finite, or the epoch that ruins the model.

    Put it before `Checkpoints`, which then saves only what can be gone on with: the
    loss of a step is computed before its update, so the last step of an epoch may
    ruin the weights behind a finite loss.
    """

    def __init__(self, checkpoints):
        super().__init__()
        self.checkpoints = checkpoints

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            self._stop(f"The loss is {logs['loss']} at step {batch}")

    def on_epoch_end(self, epoch, logs=None):
        for name, value in logs.items():
            if not math.isfinite(value):
                self._stop(f"The {name} is {value} at the end")
        for weight in self.model.weights:
            if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
                self._stop(f"The weight {weight.path} is not finite at the end")

    def _stop(self, what):
        last = self.checkpoints.newest()
        kept = f"The last good checkpoint is {last}." if last else "None was saved."
        raise NonFiniteLossError(
            f"{what} of epoch {self.epoch + 1}. {kept} Lower base_learning_rate, warm "
            "up longer, or train in mixed_bfloat16 or float32, and start again in a "
            "new run_dir."
        )


class Checkpoints(keras.callbacks.Callback):
    """Saves model, optimizer and random states after each epoch, keeps the last three.

    A checkpoint appears under its name only when it is complete.
    """

    def __init__(self, folder, keep=3):
        super().__init__()
        self.folder = Path(folder)
        self.keep = keep

    def path(self, epoch):
        """The checkpoint with which `epoch` begins."""
        return self.folder / f"epoch_{epoch:04d}.weights.h5"

    def saved(self):
        """The checkpoints there are, the oldest first."""
        return sorted(self.folder.glob("epoch_*.weights.h5"))

    def newest(self):
        """The last checkpoint, or `None`."""
        return self.saved()[-1] if self.saved() else None

    def on_epoch_end(self, epoch, logs=None):
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "partial.weights.h5"
        self.model.save_weights(partial, overwrite=True)
        with h5py.File(partial, "a") as file:
            for i, state in enumerate(random_states(self.model)):
                file[f"random_states/{i}"] = keras.ops.convert_to_numpy(state)
        os.replace(partial, self.path(epoch + 1))
        for old in self.saved()[: -self.keep]:
            old.unlink()

    def restore(self, model):
        """Brings a compiled model back to its newest readable checkpoint.

        Returns:
            The epoch to go on with, 0 if there is no checkpoint.

        Raises:
            ValueError: if there are checkpoints, but none that can be read.
        """
        saved = self.saved()
        if saved and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        for path in reversed(saved):
            try:
                model.load_weights(path)
                with h5py.File(path) as file:
                    for i, state in enumerate(random_states(model)):
                        state.assign(file[f"random_states/{i}"][()])
            except (OSError, KeyError, ValueError) as error:
                warnings.warn(
                    f"The checkpoint {path} is damaged and passed over ({error}).",
                    stacklevel=2,
                )
                continue
            return int(path.name.removeprefix("epoch_").partition(".")[0])
        if saved:
            raise ValueError(
                f"None of the checkpoints in {self.folder} can be read; remove them to "
                "start anew."
            )
        return 0


def random_states(model):
    """States of a model's generators, which Keras does not save with its weights."""
    saved = {id(v) for v in (*model.weights, *model.metrics_variables)}
    return [v for v in model.variables if id(v) not in saved]


class EpochLog(keras.callbacks.Callback):
    """After each epoch: log.jsonl, log.csv, TensorBoard's scalars, and the curves.

    Put it before `Checkpoints`: an epoch that was logged but not saved is repeated
    and logged anew, one that was saved but not logged would be missing for ever.
    """

    def __init__(self, folder, first_epoch, images_per_epoch):
        super().__init__()
        self.folder = Path(folder)
        self.images_per_epoch = images_per_epoch
        self.file = self.folder / "log.jsonl"
        # An epoch that is repeated after an interruption is logged once.
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.epochs = [json.loads(line) for line in lines][:first_epoch]

    def on_train_begin(self, logs=None):
        from tensorboardX import SummaryWriter

        # TensorBoard forgets the files of earlier starts, which may lack an epoch or
        # have one too many.
        self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=0)
        for entry in self.epochs:
            self._add_scalars(entry)

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.perf_counter() - self.start
        values = {name: float(value) for name, value in logs.items()}
        values["learning_rate"] = float(self.model.optimizer.learning_rate)
        # Training and validation together: what the user waits for.
        values["images_per_second"] = self.images_per_epoch / seconds
        self.epochs.append({"epoch": epoch, **values})
        text = "".join(json.dumps(entry) + "\n" for entry in self.epochs)
        partial = self.folder / "partial.jsonl"
        partial.write_text(text)
        os.replace(partial, self.file)
        with open(self.folder / "log.csv", "w", newline="") as file:
            table = csv.DictWriter(file, self.epochs[0])
            table.writeheader()
            table.writerows(self.epochs)
        self._add_scalars(self.epochs[-1])
        draw_curves(self.epochs, self.folder / "curves.png")

    def _add_scalars(self, entry):
        for name, value in entry.items():
            if name != "epoch":
                self.writer.add_scalar(name, value, entry["epoch"])
        self.writer.flush()

    def on_train_end(self, logs=None):
        self.writer.close()


def draw_curves(epochs, path):
    """Draws loss and accuracy over the epochs of a log."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, name, label in (
        (axes[0], "loss", "loss (training: with label smoothing)"),
        (axes[1], "accuracy", "top-1 accuracy"),
    ):
        numbers = [entry["epoch"] + 1 for entry in epochs]
        marker = "o" if len(epochs) < 3 else None
        for key, style, kind in (
            (name, "--", "training"),
            (f"val_{name}", "-", "test"),
        ):
            values = [entry[key] for entry in epochs]
            axis.plot(numbers, values, style, marker=marker, label=kind)
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=120)
