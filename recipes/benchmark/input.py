"""Benchmark of the input pipeline against timm's and KerasCV's."""

import dataclasses
import statistics
from pathlib import Path

from ..data.folders import Contents
from ..machine import cores, format_versions, machine_info
from ..tables import markdown_table
from .peer import PeerMissingError, find_peer

OURS = "keras_cbvit"
OURS_ONE_COPY = "keras_cbvit, one copy of each image"
OURS_TF_DATA = "keras_cbvit, --feed tf.data"
# Functions of `recipes.benchmark.input_peers` with additional arguments.
PEERS = {
    OURS: ("keras_cbvit", {"repeats": 3}),
    OURS_ONE_COPY: ("keras_cbvit", {"repeats": 1}),
    OURS_TF_DATA: ("tf_data", {"repeats": 3}),
    "timm": ("timm", {}),
    "KerasCV": ("keras_cv", {}),
}


@dataclasses.dataclass(frozen=True)
class Input:
    """Benchmark the input pipeline, decoding and DeiT's augmentation, against peers."""

    data_dir: Path
    """Folder of images, with or without class folders. Images are read repeatedly from
    the disk cache."""
    images: int = 1000
    """Minimum number of images per repeat."""
    repeats: int = 5
    """Number of measurements of each pipeline, alternating with the others."""
    batch_size: int = 64
    """Images per batch."""
    image_size: int = 224
    """Height and width of the augmented images in pixels."""
    peer_python: tuple[Path, ...] = ()
    """Python interpreters of other environments in which to look for timm and
    KerasCV."""
    json: Path | None = None
    """JSON file for all results."""

    def measure(self):
        """Runs the benchmark; returns the results that `--json` saves.

        Raises:
            ValueError: if a number is not positive.
            FileNotFoundError: if there are no images.
        """
        for name in ("images", "repeats", "batch_size", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        folder = self.data_dir.expanduser().resolve()
        contents = Contents(folder)
        files = contents.images_in(folder)
        contents.warn()
        number = -(-self.images // self.batch_size) * self.batch_size
        setup = {
            "files": files,
            "image_size": self.image_size,
            "batch_size": self.batch_size,
            "workers": cores(),
        }
        peers, skipped = {}, {}
        try:
            for title, (function, told) in PEERS.items():
                try:
                    peers[title] = find_peer(
                        "recipes.benchmark.input_peers",
                        function,
                        {**setup, **told},
                        self.peer_python,
                        # The pipelines do not use GPUs; leave them to others.
                        {"CUDA_VISIBLE_DEVICES": ""},
                    )
                except PeerMissingError as error:
                    skipped[title] = str(error)
            for peer in peers.values():
                peer.ask(number)  # warms up workers and the disk cache
            speeds = {title: [] for title in peers}
            for _ in range(self.repeats):
                for title, peer in peers.items():
                    speeds[title].append(number / peer.ask(number))
        finally:
            for peer in peers.values():
                peer.close()
        return {
            **machine_info(),
            "options": dataclasses.asdict(self),
            "files": len(files),
            "images_per_repeat": number,
            "versions": {title: peer.versions for title, peer in peers.items()},
            "skipped": skipped,
            "images_per_second": summary(speeds),
        }

    def markdown(self, result):
        """Formats the result as a table with the conditions of the measurement."""
        keys = "median", "min", "max", "ratio_to_timm"
        speeds = result["images_per_second"].items()
        lines = [
            markdown_table(
                ("Input pipeline", "Images/s, median", "Min", "Max", "÷ timm"),
                [(title, *(row[key] for key in keys)) for title, row in speeds],
                [0, 0, 0, 0, 2],
            )
        ]
        lines += [
            "",
            f"{result['cpu']}, {result['cores']} cores; {result['date']}. "
            f"{self.repeats} repeats of {result['images_per_repeat']} images out of "
            f"{result['files']} images, in turn, in batches of "
            f"{self.batch_size} at {self.image_size}×{self.image_size}.",
            "",
        ]
        return "\n".join([*lines, *format_versions(result)])


def summary(speeds):
    """Returns median, minimum and maximum of each pipeline, and median ratio to timm.

    Ratios are computed within a repeat, so that temporary slowdowns of the machine
    affect both pipelines.
    """
    rows = {}
    for title, values in speeds.items():
        ratios = [a / b for a, b in zip(values, speeds.get("timm", ()), strict=False)]
        rows[title] = {
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "ratio_to_timm": statistics.median(ratios) if ratios else None,
            "all": values,
        }
    return rows
