"""How many images a second the feed gives to the device, for any number of cores.

Decoding and augmenting are replaced by waits that free Python's lock, as Pillow does,
so that a machine of two cores shows what the feed of a large one can do.
"""

import dataclasses
import time
from pathlib import Path

import keras

from ..data import feed
from ..figures import looks, new_figure, save
from ..machine import run_on
from ..options.classification import Augmentation
from ..tables import markdown_table
from ..training.devices import distribute
from ..training.hand_over import hand_over
from .simulation import Simulation


@dataclasses.dataclass(frozen=True)
class Feed:
    """The feed with simulated cores: in threads, and in worker processes."""

    simulated_cores: tuple[int, ...] = (8, 16, 32)
    """How many images are prepared at once, by threads and by processes."""
    milliseconds: float = 4.0
    """How long an image takes a core."""
    batches: int = 16
    """How many are measured, after those that are prepared ahead."""
    batch_size: int = 1024
    image_size: int = 224
    devices: int = 1
    """That share a batch; logical CPU devices where there is no GPU."""
    json: Path | None = None
    """File for all the numbers."""
    figure: Path | None = None
    """PNG file for images a second over the cores."""

    def measure(self):
        """Measures; returns what `--json` writes."""
        rows = []
        for number in self.simulated_cores:
            for kind, workers in (("threads", 0), ("processes", number)):
                source = feed.Feed(self._simulation(), workers)
                source.threads = number
                rows.append({"cores": number, "kind": kind, **self._measured(source)})
        if self.figure:
            _draw(rows, self.milliseconds, self.figure)
        return {
            **run_on(),
            "backend": keras.backend.backend(),
            "options": dataclasses.asdict(self),
            "rows": rows,
        }

    def _simulation(self):
        # One copy of each image, as of a data set with enough of them.
        policy = Augmentation(repeats=1)
        seconds = self.milliseconds / 1000
        return Simulation(policy, self.batch_size, self.image_size, seconds)

    def _measured(self, source):
        """Images a second to the device, and what that takes the main process."""
        # So many empty what is prepared while workers start and the step is compiled.
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
        """The result as a table with what it was measured on."""
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
            f"{self.milliseconds:g} ms an image; the main process's time is that of "
            "its threads on the processor, per batch."
        )


def _draw(rows, milliseconds, file):
    """Draws images a second over the cores, and what all of them could do."""
    axis = new_figure(5, 3.8).subplots()
    cores = sorted({row["cores"] for row in rows})
    curves = {"all the cores could": [1000 * n / milliseconds for n in cores]}
    for kind in ("processes", "threads"):
        of_kind = [row for row in rows if row["kind"] == kind]
        curves[kind] = [row["images_per_second"] for row in of_kind]
    for (title, values), look in zip(curves.items(), looks(len(curves)), strict=True):
        axis.loglog(cores, values, label=title, **look)
    axis.set_xticks(cores, cores)
    axis.set_xlabel("simulated cores")
    axis.set_ylabel("images per second")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save(axis.figure, file)


class _Receiver(keras.Model):
    """Computes next to nothing of batches, which have to be on the device for it."""

    def __init__(self):
        super().__init__(name="receiver")
        self.dense = keras.layers.Dense(1)

    def call(self, batch):
        return self.dense(keras.ops.cast(batch["images"][:, 0, 0], "float32"))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **_):
        return keras.ops.mean(y_pred * y[:, :1])


class _Clock(keras.callbacks.Callback):
    """Measures from the end of some steps on to the end of training, in seconds."""

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
