"""Throughput of the input pipeline to the device for any number of cores.

Decoding and augmentation are replaced by waits that release the GIL, as Pillow does, so
that a machine with two cores shows the limits of the pipeline on a large machine.
"""

import dataclasses
import time
from pathlib import Path

import keras

from ..data import feed
from ..figures import line_styles, new_figure, save
from ..machine import machine_info
from ..options.classification import Augmentation
from ..tables import markdown_table
from ..training.devices import distribute
from ..training.hand_over import hand_over
from .simulation import Simulation


@dataclasses.dataclass(frozen=True)
class Feed:
    """Benchmark the input pipeline with simulated cores, threads against processes."""

    simulated_cores: tuple[int, ...] = (8, 16, 32)
    """Numbers of threads, and of processes, that prepare images."""
    milliseconds: float = 4.0
    """Simulated time to prepare an image on one core, in milliseconds."""
    batches: int = 16
    """Number of batches to measure, after the prefetched ones."""
    batch_size: int = 1024
    """Images per batch."""
    image_size: int = 224
    """Height and width of the images in pixels."""
    devices: int = 1
    """Number of devices that share a batch; logical CPU devices without GPUs."""
    json: Path | None = None
    """JSON file for all results."""
    figure: Path | None = None
    """PNG file for a figure of images per second over cores."""

    def measure(self):
        """Runs the benchmark; returns the results that `--json` saves."""
        rows = []
        for number in self.simulated_cores:
            for kind, workers in (("threads", 0), ("processes", number)):
                source = feed.Feed(self._simulation(), workers)
                source.threads = number
                rows.append({"cores": number, "kind": kind, **self._measure(source)})
        if self.figure:
            _draw(rows, self.milliseconds, self.figure)
        return {
            **machine_info(),
            "backend": keras.backend.backend(),
            "options": dataclasses.asdict(self),
            "rows": rows,
        }

    def _simulation(self):
        # One copy of each image, as in a large data set.
        policy = Augmentation(repeats=1)
        seconds = self.milliseconds / 1000
        return Simulation(policy, self.batch_size, self.image_size, seconds)

    def _measure(self, source):
        """Measures images per second, and the CPU time of the main process."""
        # This many steps consume the batches prefetched during startup and compilation.
        clock = _Clock(6 * source.ahead)
        last = clock.warm_up + self.batches
        with distribute(self.devices, self.batch_size):
            model = _Receiver()
            model.compile("sgd")
            with hand_over(source, 0, last) as data:
                model.fit(data, steps_per_epoch=last, callbacks=[clock], verbose=0)
        return {
            "images_per_second": self.batches * self.batch_size / clock.seconds,
            "main_process_ms_per_batch": 1000 * clock.processor / self.batches,
        }

    def markdown(self, result):
        """Formats the result as a table with the conditions of the measurement."""
        lines = []
        for row in result["rows"]:
            most = 1000 * row["cores"] / self.milliseconds
            speed = row["images_per_second"]
            processor = row["main_process_ms_per_batch"]
            lines.append((row["cores"], row["kind"], speed, 100 * speed / most))
            lines[-1] += (processor if row["kind"] == "processes" else None,)
        titles = "Simulated cores", "Feed", "Images/s", "% of all", "Main process, ms"
        return (
            markdown_table(titles, lines, [0, 0, 0, 0, 1])
            + f"\n\n{result['cpu']}, {result['cores']} cores; {result['date']}; "
            f"{result['backend']}, devices: {self.devices}. Batches of "
            f"{self.batch_size} at {self.image_size}×{self.image_size}, "
            f"{self.milliseconds:g} ms per image. The main process's time is the CPU "
            "time of its threads per batch."
        )


def _draw(rows, milliseconds, file):
    """Draws images per second over the number of cores, and the ideal throughput."""
    axis = new_figure(5, 3.8).subplots()
    cores = sorted({row["cores"] for row in rows})
    curves = {"ideal": [1000 * n / milliseconds for n in cores]}
    for kind in ("processes", "threads"):
        of_kind = [row for row in rows if row["kind"] == kind]
        curves[kind] = [row["images_per_second"] for row in of_kind]
    for (title, values), look in zip(
        curves.items(), line_styles(len(curves)), strict=True
    ):
        axis.loglog(cores, values, label=title, **look)
    axis.set_xticks(cores, cores)
    axis.set_xlabel("simulated cores")
    axis.set_ylabel("images per second")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save(axis.figure, file)


class _Receiver(keras.Model):
    """A model with almost no computation, which requires batches on the device."""

    def __init__(self):
        super().__init__(name="receiver")
        self.dense = keras.layers.Dense(1)

    def call(self, batch):
        return self.dense(keras.ops.cast(batch["images"][:, 0, 0], "float32"))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **_):
        return keras.ops.mean(y_pred * y[:, :1])


class _Clock(keras.callbacks.Callback):
    """Measures the time from the end of the warmup to the end of training."""

    def __init__(self, warm_up):
        super().__init__()
        self.warm_up = warm_up

    def on_train_batch_end(self, batch, logs=None):
        self.seconds, self.processor = time.perf_counter(), time.process_time()
        if batch + 1 == self.warm_up:
            self.start = self.seconds, self.processor

    def on_train_end(self, logs=None):
        self.seconds -= self.start[0]
        self.processor -= self.start[1]
