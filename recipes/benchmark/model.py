"""Benchmark of the models against those of KerasHub, kimm and timm."""

import dataclasses
import itertools
import statistics
from pathlib import Path

from ..machine import format_versions, machine_info
from ..tables import markdown_table
from .peer import PeerMissingError, find_peer

CB = "keras_cbvit, CB"
PLAIN = "keras_cbvit, plain"
REMAT = "keras_cbvit, CB, remat"
NO_FLASH = "keras_cbvit, CB, without flash attention"
# Functions of `recipes.benchmark.model_peers` with additional arguments.
OURS = {
    CB: ("keras_cbvit", {"broadcast": "cb"}),
    PLAIN: ("keras_cbvit", {"broadcast": "none"}),
    REMAT: ("keras_cbvit", {"broadcast": "cb", "remat": True}),
}
KERAS_PEERS = {
    "KerasHub DeiT": ("keras_hub", {"model": "DeiT"}),
    "KerasHub ViT": ("keras_hub", {"model": "ViT"}),
    "kimm": ("kimm", {}),
}
TORCH_PEERS = {"timm": ("timm", {}), "timm, compiled": ("timm", {"compiled": True})}
# Not by default: CPUs have no flash attention.
ON_REQUEST = {NO_FLASH: ("keras_cbvit", {"broadcast": "cb", "flash": False})}
WORK = ("inference", "training")
_RATIOS = ("÷ best Keras peer", "÷ timm", "of the ceiling")
_TITLES = (
    "Model",
    *("Inference, images/s", *_RATIOS),
    *("Training, images/s", *_RATIOS),
    *("Memory, inference", "training", "First step, inference", "training"),
)


@dataclasses.dataclass(frozen=True)
class Model:
    """Benchmark inference and training of a ViT, images per second and memory."""

    sizes: tuple[str, ...] = ("Ti",)
    """Model sizes: Ti, S or B."""
    backends: tuple[str, ...] = ("tensorflow", "jax", "torch")
    """Backends; timm is measured with torch."""
    models: tuple[str, ...] = (*OURS, *KERAS_PEERS, *TORCH_PEERS)
    """Models to measure, as they are named in the table."""
    image_sizes: tuple[int, ...] = (224,)
    """Heights and widths of the images in pixels."""
    batch_sizes: tuple[int, ...] = (16,)
    """Numbers of images per batch."""
    precisions: tuple[str, ...] = ("float32",)
    """Precisions: float32 or mixed_bfloat16."""
    steps: int = 4
    """Number of batches per measurement, after one that is not counted."""
    repeats: int = 5
    """Number of measurements of each model, alternating with the others."""
    keep_freed_memory: bool = True
    """Whether all processes keep freed memory (Linux with glibc), as
    `keras_cbvit.keep_freed_memory` does."""
    peer_python: tuple[Path, ...] = ()
    """Python interpreters of other environments in which to look for backends and
    peers."""
    json: Path | None = None
    """JSON file for all results."""
    figure: Path | None = None
    """PNG file for a bar chart of images per second."""

    def measure(self):
        """Runs the benchmark; returns the results that `--json` saves.

        Raises:
            ValueError: if a number is not positive, or a model is unknown.
        """
        known = OURS | KERAS_PEERS | TORCH_PEERS | ON_REQUEST
        if unknown := set(self.models) - known.keys():
            raise ValueError(
                f"models={sorted(unknown)}: the models are {', '.join(known)}."
            )
        for name in ("steps", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        result = {
            **machine_info(),
            "options": dataclasses.asdict(self),
            "versions": {},
            "skipped": {},
            "runs": [],
        }
        for setup in self._setups():
            for backend in self.backends:
                run = {"backend": backend, **setup}
                run["ceiling"] = self._ceiling(backend, setup, result)
                run["models"] = self._run(backend, setup, result)
                result["runs"].append(run)
        if self.figure:
            draw(result, self.figure)
        return result

    def _setups(self):
        names = "size", "image_size", "batch_size", "precision"
        axes = self.sizes, self.image_sizes, self.batch_sizes, self.precisions
        return [
            {**dict(zip(names, values, strict=True)), "steps": self.steps}
            for values in itertools.product(*axes)
        ]

    def _memory(self):
        """Returns glibc's setting of memory as environment variables."""
        # As `keep_freed_memory`; of any package's process, without an import in it.
        kept = "glibc.malloc.mmap_threshold=1073741824"
        kept += ":glibc.malloc.trim_threshold=2147483647"
        return {"GLIBC_TUNABLES": kept} if self.keep_freed_memory else {}

    def _run(self, backend, setup, result):
        """Measures each model that is available on a backend."""
        known = OURS | KERAS_PEERS | ON_REQUEST
        known |= TORCH_PEERS if backend == "torch" else {}
        wanted = {title: known[title] for title in self.models if title in known}
        pythons, peers, models = self.peer_python, {}, {}
        try:
            for title, (function, told) in wanted.items():
                told = {**setup, **told}
                if peer := find_model(title, function, told, backend, pythons, result):
                    peers[title] = peer
                    result["versions"][f"{title} on {backend}"] = peer.versions
                    models[title] = {}
            # Inference first, since `compile` would change it.
            for work in WORK:
                for title, peer in peers.items():
                    # Measures compilation, and the memory of this work only.
                    answer = peer.ask({"do": work})
                    models[title][work] = {
                        "images_per_second": [],
                        "first_step_seconds": answer["first"],
                        "memory_bytes": answer["memory"],
                    }
                for _ in range(self.repeats):
                    for title, peer in peers.items():
                        answer = peer.ask({"do": work})
                        models[title][work]["images_per_second"].append(
                            self.steps * setup["batch_size"] / answer["seconds"]
                        )
        finally:
            for peer in peers.values():
                peer.close()
        return models

    def _ceiling(self, backend, setup, result):
        """Measures the maximum operations per second of a matrix product."""
        title, pythons = "matrix product", self.peer_python
        memory = self._memory()
        peer = find_model(title, "matmul", setup, backend, pythons, result, memory)
        if not peer:
            return None
        try:
            return max(peer.ask({})["flops"] for _ in range(1 + self.repeats))
        finally:
            peer.close()

    def markdown(self, result):
        """Formats the result as tables with the conditions of the measurement."""
        lines = []
        for run in result["runs"]:
            best = {work: best_keras_peer(run["models"], work) for work in WORK}
            lines += [
                f"**ViT-{run['size']}/16 on {run['backend']}**, {run['image_size']}×"
                f"{run['image_size']}, batch {run['batch_size']}, {run['precision']}",
                "",
            ]
            rows = []
            for title, model in run["models"].items():
                cells = [title]
                for work in WORK:
                    values = model[work]["images_per_second"]
                    cells.append(
                        f"{statistics.median(values):.1f} "
                        f"({min(values):.1f}–{max(values):.1f})"
                    )
                    for other in (best[work], "timm"):
                        cells.append(_ratio(run["models"], title, other, work))
                    cells.append(_share_of_ceiling(run, values, work))
                cells += [f"{model[w]['memory_bytes'] / 2**20:.0f} MiB" for w in WORK]
                cells += [f"{model[w]['first_step_seconds']:.1f} s" for w in WORK]
                rows.append(cells)
            lines += [markdown_table(_TITLES, rows), "", *_summary(run), ""]
        lines += [
            f"{result['cpu']}, {result['cores']} cores; {result['date']}. Medians of "
            f"{self.repeats} alternating repeats of {self.steps} batches, with minimum "
            "and maximum; ratios are medians of the repeats' ratios. The ceiling is "
            "the rate of large matrix products; a model's share of it counts its own "
            "matrix products, three times in training.",
            "",
        ]
        return "\n".join([*lines, *format_versions(result)])


def find_model(title, function, setup, backend, pythons, result, environment=None):
    """Starts a process of `model_peers`; records and returns `None` if unavailable."""
    environment = {**(environment or {}), "KERAS_BACKEND": backend}
    try:
        module = "recipes.benchmark.model_peers"
        return find_peer(module, function, setup, pythons, environment)
    except PeerMissingError as error:
        result["skipped"][f"{title} on {backend}"] = str(error)
        return None


def best_keras_peer(models, work):
    """Returns the name of the fastest Keras peer, or `None` if there is none."""
    speeds = {
        title: statistics.median(models[title][work]["images_per_second"])
        for title in KERAS_PEERS
        if title in models
    }
    return max(speeds, key=speeds.__getitem__, default=None)


def ratio(models, title, other, work):
    """Returns the speed of a model relative to another, the median over repeats.

    Ratios are computed within a repeat, so that temporary slowdowns of the machine
    affect both models.
    """
    both = (models[name][work]["images_per_second"] for name in (title, other))
    return statistics.median(a / b for a, b in zip(*both, strict=True))


def _ratio(models, title, other, work):
    return f"{ratio(models, title, other, work):.2f}" if other in models else "–"


def matmul_macs(size, image_size):
    """Returns the multiply-accumulates of matrix products for one image, patch 16."""
    from .model_peers import CLASSES, SIZES

    width, _ = SIZES[size]
    patches = (image_size // 16) ** 2
    tokens = patches + 1
    block = 12 * tokens * width**2 + 2 * tokens**2 * width
    return 12 * block + patches * 16 * 16 * 3 * width + width * CLASSES


def _share_of_ceiling(run, images_per_second, work):
    if not run["ceiling"]:
        return "–"
    passes = {"inference": 1, "training": 3}[work]
    flops = 2 * matmul_macs(run["size"], run["image_size"]) * passes
    return f"{statistics.median(images_per_second) * flops / run['ceiling']:.0%}"


def _summary(run):
    """Yields sentences about the time of CB and the ceiling."""
    models = run["models"]
    if {CB, PLAIN} <= models.keys():
        takes = (
            f"{1 / ratio(models, CB, PLAIN, work) - 1:+.1%} in {work}" for work in WORK
        )
        yield f"Time of CB over plain: {', '.join(takes)}."
    if run["ceiling"]:
        yield f"Ceiling: {run['ceiling'] / 1e9:,.0f} GFLOP/s."


def draw(result, file):
    """Draws a bar chart of images per second, one row per run."""
    from matplotlib.figure import Figure

    runs = result["runs"]
    figure = Figure(figsize=(11, 2.4 * len(runs)), layout="constrained")
    axes = figure.subplots(len(runs), len(WORK), squeeze=False)
    for run, row in zip(runs, axes, strict=True):
        for work, axis in zip(WORK, row, strict=True):
            titles = list(run["models"])
            values = [run["models"][t][work]["images_per_second"] for t in titles]
            medians = [statistics.median(v) for v in values]
            around = [
                [m - min(v) for m, v in zip(medians, values, strict=True)],
                [max(v) - m for m, v in zip(medians, values, strict=True)],
            ]
            colors = ["tab:blue" if t in OURS else "silver" for t in titles]
            axis.barh(titles, medians, xerr=around, color=colors)
            axis.invert_yaxis()
            axis.set_title(f"ViT-{run['size']}, {run['backend']}: {work}")
            axis.set_xlabel("images/s")
    figure.savefig(file, dpi=120)
