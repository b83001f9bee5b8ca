"""Training progress: a bar in a terminal, lines in a log file."""

import sys
import time

import keras
import tqdm


class Progress(keras.callbacks.Callback):
    """Shows a bar with images per second and the remaining time of the training.

    `data` in the bar is the share of time spent waiting for data so far. In a file, the
    bar is a line per minute. After each epoch, prints its numbers to stdout.
    """

    def __init__(self, first_step, steps_per_epoch, epochs, images_per_step, feed):
        super().__init__()
        self.first_step = first_step
        self.steps_per_epoch = steps_per_epoch
        self.epochs = epochs
        self.images_per_step = images_per_step
        self.feed = feed
        self.bar = None

    def on_train_begin(self, logs=None):
        if self.bar is None:
            self.wait = Wait(self.feed)
            is_terminal = sys.stderr.isatty()
            self.bar = tqdm.tqdm(
                total=self.epochs * self.steps_per_epoch * self.images_per_step,
                initial=self.first_step * self.images_per_step,
                unit=" images",
                unit_scale=True,
                file=sys.stderr if is_terminal else Lines(sys.stderr),
                mininterval=0.5 if is_terminal else 60,
                # tqdm's monitor would otherwise redraw more often in long steps.
                maxinterval=10 if is_terminal else 60,
                dynamic_ncols=is_terminal,
            )

    def on_train_batch_end(self, batch, logs=None):
        shown, wait = {"loss": f"{float(logs['loss']):.4f}"}, self.wait.share()
        if wait is not None:
            shown["data"] = f"{wait:.0%}"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(self.images_per_step)

    def on_epoch_end(self, epoch, logs=None):
        numbers = ", ".join(f"{name} {value:.4f}" for name, value in logs.items())
        self.bar.write(f"Epoch {epoch + 1} of {self.epochs}: {numbers}")
        sys.stdout.flush()  # so that a log file has the epoch at once

    def on_train_end(self, logs=None):
        if self.bar.n >= self.bar.total:
            self.bar.close()


class Lines:
    """A stream that writes each update of a bar on a new line.

    Args:
        stream: stream to write to.
    """

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        if line := text.strip():
            self.stream.write(f"{line}\n")

    def flush(self):
        self.stream.flush()


class Wait:
    """Measures the share of time spent waiting for a feed since its creation."""

    def __init__(self, feed):
        self.feed = feed
        self.waited = feed.waited
        self.start = time.perf_counter()

    def share(self):
        """Returns the share, 0–1; `None` if the feed does not measure it."""
        if self.feed.waited is None:
            return None
        seconds = time.perf_counter() - self.start
        return min((self.feed.waited - self.waited) / seconds, 1.0)
