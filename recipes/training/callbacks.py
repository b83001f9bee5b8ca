"""Callbacks that save checkpoints, write logs and stop at a non-finite loss."""

import contextlib
import math
import re
import time
import warnings
from pathlib import Path

import keras
import numpy as np

from keras_cbvit.internals import moving_averages

from . import states
from .logs import draw_curves, read_log, write_log, write_table
from .progress import Wait

SECONDS_BETWEEN_CURVES = 30


class NonFiniteLossError(FloatingPointError):
    """Raised if the loss or a weight of a training run is NaN or infinite."""


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Stops training as soon as the loss or a weight is not finite.

    Put it before `Checkpoints`, so that only finite weights are saved. The loss of a
    step is computed before its update, so a step with a finite loss may still leave
    non-finite weights.

    Args:
        checkpoints: `Checkpoints` callback of the run.
    """

    def __init__(self, checkpoints):
        super().__init__()
        self.checkpoints = checkpoints

    def on_train_batch_end(self, batch, logs=None):
        # `Checkpoints` counts the steps, but runs after this callback.
        step = self.checkpoints.step + 1
        if not math.isfinite(logs["loss"]):
            self._stop(f"The loss is {logs['loss']}", step)
        if self.checkpoints.is_due(step):
            states.sync(self.model)
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
        kept = (
            f"The last good checkpoint is {last}."
            if last
            else "No checkpoint was saved."
        )
        epoch, step = divmod(step - 1, self.checkpoints.steps_per_epoch)
        raise NonFiniteLossError(
            f"{what} after step {step + 1} of epoch {epoch + 1}. {kept} Lower "
            "the learning rate, warm up longer, or train in mixed_bfloat16 or "
            "float32, in a new --run-dir."
        )


class Checkpoints(keras.callbacks.Callback):
    """Saves a checkpoint to resume from every `every` steps and after each epoch.

    A checkpoint holds the model, the optimizer with its moving averages, the random
    states and the metrics so far. Its name is the step number, which determines the
    next batches. Files are written atomically and end with a checksum.

    Args:
        folder: folder of the checkpoints.
        steps_per_epoch: number of steps in an epoch.
        every: number of steps between checkpoints.
        keep: number of checkpoints to keep.
        write: whether this process writes checkpoints; every process reads them.
    """

    def __init__(self, folder, steps_per_epoch, every, *, keep=3, write=True):
        super().__init__()
        self.folder = Path(folder)
        self.steps_per_epoch = steps_per_epoch
        self.every = every
        self.keep = keep
        self.write = write
        self.step = 0
        self.restored = []
        self.damaged = set()

    def path(self, step):
        """Returns the path of the checkpoint after `step` steps."""
        return self.folder / f"step_{step:08d}.weights.h5"

    def paths(self):
        """Returns the paths of the undamaged checkpoints, oldest first."""
        found = set(self.folder.glob("step_*.weights.h5")) - self.damaged
        return sorted((path for path in found if _step(path) >= 0), key=_step)

    def newest(self):
        """Returns the path of the last checkpoint, or `None`."""
        return self.paths()[-1] if self.paths() else None

    @contextlib.contextmanager
    def add_checkpoint_note(self):
        """Adds a note on the last checkpoint to disk and numerical errors."""
        try:
            yield
        except NonFiniteLossError:  # its message names the checkpoint
            raise
        except (OSError, FloatingPointError) as error:
            last = self.newest()
            error.add_note(
                f"The last good checkpoint is {last}; the same command resumes from it."
                if last
                else "No checkpoint was saved."
            )
            raise

    def is_due(self, step):
        """Returns whether a checkpoint is saved after this step, within its epoch."""
        return step % self.every == 0 and step % self.steps_per_epoch != 0

    def on_epoch_begin(self, epoch, logs=None):
        # `fit` has reset the metrics, which an interrupted epoch continues.
        if self.restored:
            for variable, value in zip(self._metrics(), self.restored, strict=True):
                variable.assign(value)
        self.restored = []

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.is_due(self.step):
            states.sync(self.model)
            self._save()

    def on_epoch_end(self, epoch, logs=None):
        self._save()

    def _save(self):
        if not self.write:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(self.step)
        unfinished = self.step % self.steps_per_epoch
        states.save(self.model, path, self._metrics() if unfinished else ())
        self.damaged.discard(path)
        for old in self.paths()[: -self.keep]:
            old.unlink()

    def _metrics(self):
        return self.model.metrics_variables

    def restore(self, model):
        """Restores a compiled model from its newest readable checkpoint.

        Returns:
            The number of completed steps, 0 without a checkpoint.

        Raises:
            ValueError: if no existing checkpoint can be read, or the newest readable
                one does not fit the model.
        """
        saved = self.paths()
        for path in reversed(saved):
            try:
                file = states.read(path)
            except (OSError, ValueError) as error:
                warnings.warn(
                    f"Skipped the damaged checkpoint {path} ({error}).",
                    stacklevel=2,
                )
                self.damaged.add(path)
                continue
            try:
                self.restored = states.load(model, file)
            except (ValueError, KeyError, UserWarning) as error:
                raise ValueError(
                    f"The checkpoint {path} does not match the model ({error!s:.200}); "
                    f"remove {self.folder} to restart training."
                ) from error
            self.step = _step(path)
            return self.step
        if saved:
            raise ValueError(
                f"None of the checkpoints in {self.folder} can be read; remove them to "
                "restart training."
            )
        return 0


def _step(path):
    """Returns the step in a checkpoint's name; -1 for any other file."""
    found = re.fullmatch(r"step_(\d+)\.weights\.h5", path.name)
    return int(found[1]) if found else -1


class EvaluateAverages(keras.callbacks.Callback):
    """Evaluates the moving averages of the weights after each epoch.

    Adds the results to the logs as `val_ema_loss` etc. Put it before `EpochLog`.

    Args:
        measure: function that takes the model and returns a dict of numbers.
    """

    def __init__(self, measure):
        super().__init__()
        self.measure = measure

    def on_epoch_end(self, epoch, logs=None):
        with use_averages(self.model):
            found = self.measure(self.model)
        logs.update({f"val_ema_{name}": value for name, value in found.items()})


class Evaluate(keras.callbacks.Callback):
    """Evaluates the model with a function after each epoch.

    Adds the results to the logs as `val_...`. Put it before `EpochLog`.

    Args:
        measure: function that takes the model and returns a dict of numbers.
    """

    def __init__(self, measure):
        super().__init__()
        self.measure = measure

    def on_epoch_end(self, epoch, logs=None):
        states.sync(self.model)
        found = self.measure(self.model)
        logs.update({f"val_{name}": value for name, value in found.items()})


@contextlib.contextmanager
def use_averages(model):
    """Replaces a model's weights by their moving averages within the context."""
    trained = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    averages = moving_averages(model.optimizer)
    for variable, average in zip(model.trainable_variables, averages, strict=True):
        variable.assign(keras.ops.convert_to_numpy(average))
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, trained, strict=True):
            variable.assign(value)


class EpochLog(keras.callbacks.Callback):
    """Writes log.jsonl and log.csv and updates the trackers after each epoch.

    Draws curves.png at most every 30 seconds, and at the end of training.

    Put it before `Checkpoints`: an epoch that was logged but not saved is repeated and
    logged again, whereas one saved but not logged would be missing from the log.

    Args:
        folder: run folder.
        first_epoch: epoch that training starts or resumes at.
        images_per_step: number of images per step.
        broken_images: function that returns the number of images skipped since the
            last start.
        feed: feed of the training batches.
        trackers: loggers that receive each epoch, such as
            `recipes.training.logs.Scalars`.

    Raises:
        ValueError: if the existing log is damaged.
    """

    def __init__(
        self, folder, first_epoch, images_per_step, broken_images, feed, trackers=()
    ):
        super().__init__()
        self.folder = Path(folder)
        self.images_per_step = images_per_step
        self.broken_images = broken_images
        self.feed = feed
        self.trackers = trackers
        self.file = self.folder / "log.jsonl"
        # Drops the epochs that are repeated after an interruption.
        self.epochs = [
            entry for entry in read_log(self.file) if entry["epoch"] < first_epoch
        ]

    def on_train_begin(self, logs=None):
        self.drawn = time.perf_counter()
        for tracker in self.trackers:
            tracker.begin(self.epochs)

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()
        self.wait = Wait(self.feed)
        self.images = 0

    def on_train_batch_end(self, batch, logs=None):
        self.images += self.images_per_step
        self.waited = self.wait.share()

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.perf_counter() - self.start
        values = {name: float(value) for name, value in logs.items()}
        values["learning_rate"] = float(self.model.optimizer.learning_rate)
        # The time includes validation.
        values["images_per_second"] = self.images / seconds
        if self.waited is not None:  # share of the training time only
            values["data_wait"] = self.waited
        values["broken_images"] = self.broken_images()
        self.epochs.append({"epoch": epoch, **values})
        write_log(self.epochs, self.file)
        write_table(self.epochs, self.folder / "log.csv")
        for tracker in self.trackers:
            tracker.add(self.epochs[-1])
        # Drawing takes longer than a short epoch.
        if time.perf_counter() - self.drawn > SECONDS_BETWEEN_CURVES:
            self._draw_curves()

    def on_train_end(self, logs=None):
        self._draw_curves()

    def _draw_curves(self):
        draw_curves(self.epochs, self.folder / "curves.png")
        self.drawn = time.perf_counter()
