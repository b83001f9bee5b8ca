"""Checkpoints, logs and the alarm of a training run."""

import contextlib
import csv
import json
import math
import os
import sys
import time
import warnings
from pathlib import Path

import h5py
import keras
import numpy as np
import tqdm

from recipes.training.optimizer import moving_averages


class NonFiniteLossError(FloatingPointError):
    """The loss or a weight of a training run is NaN or infinite."""


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Stops at the step whose loss is not finite, or at weights that are not.

    Put it before `Checkpoints`, which then saves only what can be gone on with: the
    loss of a step is computed before its update, so a step may ruin the weights behind
    a finite loss.
    """

    def __init__(self, checkpoints):
        super().__init__()
        self.checkpoints = checkpoints

    def on_train_batch_end(self, batch, logs=None):
        # `Checkpoints`, which counts the steps, comes after.
        step = self.checkpoints.step + 1
        if not math.isfinite(logs["loss"]):
            self._stop(f"The loss is {logs['loss']}", step)
        if self.checkpoints.is_due(step):
            sync(self.model)
            self._check_weights(step)

    def on_epoch_end(self, epoch, logs=None):
        for name, value in logs.items():
            if not math.isfinite(value):
                self._stop(f"The {name} is {value}", self.checkpoints.step)
        self._check_weights(self.checkpoints.step)

    def _check_weights(self, step):
        for weight in self.model.weights:
            if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
                self._stop(f"The weight {weight.path} is not finite", step)

    def _stop(self, what, step):
        last = self.checkpoints.newest()
        kept = f"The last good checkpoint is {last}." if last else "None was saved."
        epoch, step = divmod(step - 1, self.checkpoints.steps_per_epoch)
        raise NonFiniteLossError(
            f"{what} after step {step + 1} of epoch {epoch + 1}. {kept} Lower "
            "the learning rate, warm up longer, or train in mixed_bfloat16 or "
            "float32, and start again in a new run_dir."
        )


class Checkpoints(keras.callbacks.Callback):
    """Saves all that training needs to go on, every so many steps and after an epoch.

    That is the model, the optimizer with its moving averages, the random states and the
    metrics so far; what a batch holds follows from the number of the step, which is the
    checkpoint's name. The last three are kept. A checkpoint appears under its name only
    when it is complete.

    Args:
        folder: where to.
        steps_per_epoch: steps of an epoch.
        every: steps between checkpoints.
        keep: how many.
        write: whether this process writes them; all of them read.
    """

    def __init__(self, folder, steps_per_epoch, every, *, keep=3, write=True):
        super().__init__()
        self.folder = Path(folder)
        self.steps_per_epoch = steps_per_epoch
        self.every = every
        self.keep = keep
        self.write = write
        self.step = 0

    def path(self, step):
        """The checkpoint after so many steps."""
        return self.folder / f"step_{step:08d}.weights.h5"

    def saved(self):
        """The checkpoints there are, the oldest first."""
        return sorted(self.folder.glob("step_*.weights.h5"))

    def newest(self):
        """The last checkpoint, or `None`."""
        return self.saved()[-1] if self.saved() else None

    def is_due(self, step):
        """Whether one is saved after this step, within its epoch."""
        return step % self.every == 0 and step % self.steps_per_epoch != 0

    def on_epoch_begin(self, epoch, logs=None):
        # `fit` has reset the metrics; an epoch that was interrupted goes on with them.
        for variable, value in zip(self._metrics(), self.restored, strict=False):
            variable.assign(value)
        self.restored = []

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.is_due(self.step):
            sync(self.model)
            self._save()

    def on_epoch_end(self, epoch, logs=None):
        self._save()

    def _save(self):
        if not self.write:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "partial.weights.h5"
        # Keras makes a variable while it saves, which the other processes would have to
        # take part in under a distribution.
        distribution = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            self.model.save_weights(partial, overwrite=True)
        finally:
            keras.distribution.set_distribution(distribution)
        with h5py.File(partial, "a") as file:
            for i, state in enumerate(random_states(self.model)):
                file[f"random_states/{i}"] = keras.ops.convert_to_numpy(state)
            if self.step % self.steps_per_epoch:
                for i, variable in enumerate(self._metrics()):
                    file[f"metrics/{i}"] = keras.ops.convert_to_numpy(variable)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, self.path(self.step))
        for old in self.saved()[: -self.keep]:
            old.unlink()

    def _metrics(self):
        return self.model.metrics_variables

    def restore(self, model):
        """Brings a compiled model back to its newest readable checkpoint.

        Returns:
            How many steps were done, 0 if there is no checkpoint.

        Raises:
            ValueError: if there are checkpoints, but none that can be read.
        """
        self.restored = []
        saved = self.saved()
        for path in reversed(saved):
            try:
                model.load_weights(path)
                with h5py.File(path) as file:
                    for i, state in enumerate(random_states(model)):
                        state.assign(file[f"random_states/{i}"][()])
                    metrics = file.get("metrics", {})
                    self.restored = [metrics[str(i)][()] for i in range(len(metrics))]
            except (OSError, KeyError, ValueError) as error:
                warnings.warn(
                    f"The checkpoint {path} is damaged and passed over ({error}).",
                    stacklevel=2,
                )
                continue
            self.step = int(path.name.removeprefix("step_").partition(".")[0])
            return self.step
        if saved:
            raise ValueError(
                f"None of the checkpoints in {self.folder} can be read; remove them to "
                "start anew."
            )
        return 0


def sync(model):
    """Brings a model's variables up to date; JAX trains on copies of them."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def random_states(model):
    """States of a model's generators, which Keras does not save with its weights."""
    saved = {id(v) for v in (*model.weights, *model.metrics_variables)}
    return [v for v in model.variables if id(v) not in saved]


class EvaluateAverages(keras.callbacks.Callback):
    """Evaluates the moving averages of the weights, too, after each epoch.

    What it finds joins the log as `val_ema_loss` and the like; put it before the log.
    """

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def on_epoch_end(self, epoch, logs=None):
        with averaged(self.model):
            found = self.model.evaluate(self.batches, verbose=0, return_dict=True)
        logs.update({f"val_ema_{name}": value for name, value in found.items()})


class Evaluate(keras.callbacks.Callback):
    """After each epoch puts what a function measures into the log, as `val_...`.

    Put it before the log.

    Args:
        measure: a function without arguments that gives a dict of numbers.
    """

    def __init__(self, measure):
        super().__init__()
        self.measure = measure

    def on_epoch_end(self, epoch, logs=None):
        sync(self.model)
        found = self.measure()
        logs.update({f"val_{name}": value for name, value in found.items()})


@contextlib.contextmanager
def averaged(model):
    """Within it, a model has the moving averages of its weights."""
    trained = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    averages = moving_averages(model.optimizer)
    for variable, average in zip(model.trainable_variables, averages, strict=True):
        variable.assign(keras.ops.convert_to_numpy(average))
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, trained, strict=True):
            variable.assign(value)


class Progress(keras.callbacks.Callback):
    """A bar with images per second and the time left of the whole training."""

    def __init__(self, first_step, steps_per_epoch, epochs, images_per_step):
        super().__init__()
        self.first_step = first_step
        self.steps_per_epoch = steps_per_epoch
        self.epochs = epochs
        self.images_per_step = images_per_step
        self.bar = None

    def on_train_begin(self, logs=None):
        if self.bar is None:
            self.bar = tqdm.tqdm(
                total=self.epochs * self.steps_per_epoch * self.images_per_step,
                initial=self.first_step * self.images_per_step,
                unit=" images",
                unit_scale=True,
                # A log file gets a line a minute.
                mininterval=0.5 if sys.stderr.isatty() else 60,
                dynamic_ncols=True,
            )

    def on_train_batch_end(self, batch, logs=None):
        self.bar.set_postfix(loss=f"{float(logs['loss']):.4f}", refresh=False)
        self.bar.update(self.images_per_step)

    def on_epoch_end(self, epoch, logs=None):
        numbers = ", ".join(f"{name} {value:.4f}" for name, value in logs.items())
        self.bar.write(f"Epoch {epoch + 1} of {self.epochs}: {numbers}")

    def on_train_end(self, logs=None):
        if self.bar.n >= self.bar.total:
            self.bar.close()


class EpochLog(keras.callbacks.Callback):
    """After each epoch: log.jsonl, log.csv, TensorBoard's scalars, and the curves.

    Put it before `Checkpoints`: an epoch that was logged but not saved is repeated
    and logged anew, one that was saved but not logged would be missing for ever.

    Args:
        folder: where to.
        first_epoch: the epoch that training goes on with.
        images_per_step: how many are trained on in a step.
        broken_images: function that counts the pictures left out so far.
    """

    def __init__(self, folder, first_epoch, images_per_step, broken_images):
        super().__init__()
        self.folder = Path(folder)
        self.images_per_step = images_per_step
        self.broken_images = broken_images
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
        self.images = 0

    def on_train_batch_end(self, batch, logs=None):
        self.images += self.images_per_step

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.perf_counter() - self.start
        values = {name: float(value) for name, value in logs.items()}
        values["learning_rate"] = float(self.model.optimizer.learning_rate)
        # Training and validation together: what the user waits for.
        values["images_per_second"] = self.images / seconds
        values["broken_images"] = self.broken_images()
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


# What is drawn of a log, as far as it has it.
_CURVES = {
    "loss": "loss (training: of augmented images)",
    "accuracy": "top-1 accuracy",
    "mean_iou": "mean IoU",
}


def draw_curves(epochs, path):
    """Draws loss and accuracy, or mean IoU, over the epochs of a log."""
    from matplotlib.figure import Figure

    numbers = [entry["epoch"] + 1 for entry in epochs]
    marker = "o" if len(epochs) < 3 else None
    drawn = [name for name in _CURVES if {name, f"val_{name}"} & epochs[0].keys()]
    figure = Figure(figsize=(4.5 * len(drawn), 3.6), layout="constrained")
    axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axis, name in zip(axes, drawn, strict=True):
        for key, style, kind in (
            (name, "--", "training"),
            (f"val_{name}", "-", "test"),
        ):
            if key in epochs[0]:
                values = [entry[key] for entry in epochs]
                axis.plot(numbers, values, style, marker=marker, label=kind)
        axis.set_xlabel("epoch")
        axis.set_ylabel(_CURVES[name])
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=120)
