"""Checkpoints, logs and the alarm of a training run."""

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
    when it is complete, and ends with a checksum.

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
        self.restored = []
        self.damaged = set()

    def path(self, step):
        """The checkpoint after so many steps."""
        return self.folder / f"step_{step:08d}.weights.h5"

    def saved(self):
        """The checkpoints there are, the oldest first, but for damaged ones."""
        found = set(self.folder.glob("step_*.weights.h5")) - self.damaged
        return sorted((path for path in found if _step(path) >= 0), key=_step)

    def newest(self):
        """The last checkpoint, or `None`."""
        return self.saved()[-1] if self.saved() else None

    @contextlib.contextmanager
    def noted(self):
        """Within it, errors of the disk and of numbers say which checkpoint is kept."""
        try:
            yield
        except NonFiniteLossError:  # says it
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
        """Whether one is saved after this step, within its epoch."""
        return step % self.every == 0 and step % self.steps_per_epoch != 0

    def on_epoch_begin(self, epoch, logs=None):
        # `fit` has reset the metrics; an epoch that was interrupted goes on with them.
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
        for old in self.saved()[: -self.keep]:
            old.unlink()

    def _metrics(self):
        return self.model.metrics_variables

    def restore(self, model):
        """Brings a compiled model back to its newest readable checkpoint.

        Returns:
            How many steps were done, 0 if there is no checkpoint.

        Raises:
            ValueError: if there are checkpoints, but none that can be read, or one of
                another model.
        """
        saved = self.saved()
        for path in reversed(saved):
            try:
                file = states.read(path)
            except (OSError, ValueError) as error:
                warnings.warn(
                    f"The checkpoint {path} is damaged and passed over ({error}).",
                    stacklevel=2,
                )
                self.damaged.add(path)
                continue
            try:
                self.restored = states.load(model, file)
            except (ValueError, KeyError, UserWarning) as error:
                raise ValueError(
                    f"The checkpoint {path} is of another model ({error!s:.200}); "
                    f"remove {self.folder} to start over."
                ) from error
            self.step = _step(path)
            return self.step
        if saved:
            raise ValueError(
                f"None of the checkpoints in {self.folder} can be read; remove them to "
                "start over."
            )
        return 0


def _step(path):
    """The number in a checkpoint's name; -1 if it is another file's."""
    found = re.fullmatch(r"step_(\d+)\.weights\.h5", path.name)
    return int(found[1]) if found else -1


class EvaluateAverages(keras.callbacks.Callback):
    """Evaluates the moving averages of the weights, too, after each epoch.

    What it finds joins the log as `val_ema_loss` and the like; put it before the log.

    Args:
        measure: a function of the model that gives a dict of numbers.
    """

    def __init__(self, measure):
        super().__init__()
        self.measure = measure

    def on_epoch_end(self, epoch, logs=None):
        with averaged(self.model):
            found = self.measure(self.model)
        logs.update({f"val_ema_{name}": value for name, value in found.items()})


class Evaluate(keras.callbacks.Callback):
    """After each epoch puts what a function measures into the log, as `val_...`.

    Put it before the log.

    Args:
        measure: a function of the model that gives a dict of numbers.
    """

    def __init__(self, measure):
        super().__init__()
        self.measure = measure

    def on_epoch_end(self, epoch, logs=None):
        states.sync(self.model)
        found = self.measure(self.model)
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


class EpochLog(keras.callbacks.Callback):
    """After each epoch: log.jsonl, log.csv and the trackers; often the curves.

    curves.png is drawn at most every 30 seconds, and at the end.

    Put it before `Checkpoints`: an epoch that was logged but not saved is repeated
    and logged again, one that was saved but not logged would be missing for ever.

    Args:
        folder: where to.
        first_epoch: the epoch that training goes on with.
        images_per_step: how many are trained on in a step.
        broken_images: function that counts the images left out since the last start.
        feed: of the training batches.
        trackers: which get the epochs, too, such as `recipes.training.logs.Scalars`.

    Raises:
        ValueError: if the log of the epochs before is damaged.
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
        # An epoch that is repeated after an interruption is logged once.
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
        # Training and validation together: what the user waits for.
        values["images_per_second"] = self.images / seconds
        if self.waited is not None:  # of the training alone
            values["data_wait"] = self.waited
        values["broken_images"] = self.broken_images()
        self.epochs.append({"epoch": epoch, **values})
        write_log(self.epochs, self.file)
        write_table(self.epochs, self.folder / "log.csv")
        for tracker in self.trackers:
            tracker.add(self.epochs[-1])
        # Short epochs would wait longer for the curves than for their steps.
        if time.perf_counter() - self.drawn > SECONDS_BETWEEN_CURVES:
            self._draw_curves()

    def on_train_end(self, logs=None):
        self._draw_curves()

    def _draw_curves(self):
        draw_curves(self.epochs, self.folder / "curves.png")
        self.drawn = time.perf_counter()
