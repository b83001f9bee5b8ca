"""How many images a second the feed gives to the device, for any number of cores.

Decoding and augmenting are replaced by waits that free Python's lock, as Pillow does,
so that a machine of two cores shows what the feed of a large one can do.
"""

import dataclasses
import time
from pathlib import Path

import keras
import numpy as np

from ..data import feed
from ..data.batches import TrainingBatches
from ..data.pictures import Split
from ..machine import run_on
from ..options.classification import Augmentation
from ..tables import markdown_table
from ..training.hand_over import hand_over

WAITS = 12  # that an image consists of, as an image takes so many calls of Pillow


@dataclasses.dataclass(frozen=True)
class Feed:
    """The feed with simulated cores: in threads, and in worker processes."""

    simulated_cores: tuple[int, ...] = (2, 8, 32)
    """How many images are prepared at once, by threads and by processes."""
    milliseconds: float = 4.0
    """How long an image takes a core."""
    batches: int = 8
    """How many are measured, after as many as are prepared ahead."""
    batch_size: int = 1024
    image_size: int = 224
    json: Path | None = None
    """File for all the numbers."""

    def measure(self):
        """Measures; returns what `--json` writes."""
        rows = []
        for number in self.simulated_cores:
            for kind, workers in (("threads", 0), ("processes", number)):
                source = feed.Feed(_Simulation(self), workers)
                source.threads = number
                rows.append({"cores": number, "kind": kind, **self._measured(source)})
        return {
            **run_on(),
            "backend": keras.backend.backend(),
            "options": dataclasses.asdict(self),
            "rows": rows,
        }

    def _measured(self, source):
        """Images a second to the device, and what that takes the main process."""
        warm_up = feed.AHEAD + 1
        with hand_over(source, 0, warm_up + self.batches) as data:
            for step, batch in enumerate(data, 1):
                _await(keras.tree.map_structure(keras.ops.convert_to_tensor, batch))
                if step == warm_up:
                    start, used = time.perf_counter(), time.process_time()
            seconds = time.perf_counter() - start
            used = time.process_time() - used
        return {
            "images_per_second": self.batches * self.batch_size / seconds,
            "main_process_ms_per_batch": 1000 * used / self.batches,
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
            f"{result['backend']}. Batches of {self.batch_size} at {self.image_size}×"
            f"{self.image_size}, {self.milliseconds:g} ms an image; the main process's "
            "time is that of its threads on the processor, per batch."
        )


class _Simulation(TrainingBatches):
    """Training batches of which waiting takes the place of decoding."""

    def __init__(self, options):
        shape = options.batch_size, options.image_size, options.image_size, 3
        image = np.zeros((1, *shape[1:]), "uint8")
        split = Split(np.broadcast_to(image, shape), np.zeros(shape[0], "int64"))
        policy = Augmentation(repeats=1)
        super().__init__(split, 1000, options.batch_size, policy, label_smoothing=0.1)
        self.images = None
        self.image = image[0]
        self.wait = options.milliseconds / 1000 / WAITS

    def prepare(self, step, part):
        rows = np.arange(self.batch_size)[part :: self.parts]
        images = np.empty((len(rows), *self.image.shape), "uint8")
        for row in range(len(rows)):
            for _ in range(WAITS):
                time.sleep(self.wait)
            images[row] = self.image
        return {"rows": rows, "images": images, "used": rows, "broken": {}}


def _await(batch):
    """Waits until a batch is on the device."""
    if keras.backend.backend() == "jax":
        import jax

        jax.block_until_ready(batch)
