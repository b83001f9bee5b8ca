"""Profile of a model's operations, from the profiler of its backend."""

import dataclasses
from pathlib import Path

from ..machine import format_versions, machine_info
from ..tables import markdown_table
from .model import CB, KERAS_PEERS, OURS, TORCH_PEERS, WORK, find_model

MODELS = {CB: OURS[CB], **KERAS_PEERS, "timm": TORCH_PEERS["timm"]}


@dataclasses.dataclass(frozen=True)
class Profile:
    """Profile the operations of a ViT, this package's against its peers'."""

    backends: tuple[str, ...] = ("tensorflow", "jax", "torch")
    """Backends; timm is profiled with torch."""
    size: str = "Ti"
    """Model size: Ti, S or B."""
    image_size: int = 224
    """Height and width of the images in pixels."""
    batch_size: int = 16
    """Images per batch."""
    precision: str = "float32"
    """Precision: float32 or mixed_bfloat16."""
    steps: int = 4
    """Number of batches to profile after the first, preceded by as many for warmup."""
    operations: int = 8
    """Number of operations to list per model, those with the most time."""
    peer_python: tuple[Path, ...] = ()
    """Python interpreters of other environments in which to look for backends and
    peers."""
    json: Path | None = None
    """JSON file for all results."""

    def measure(self):
        """Runs the profilers; returns the results that `--json` saves.

        Raises:
            ValueError: if a number is not positive.
        """
        for name in ("image_size", "batch_size", "steps", "operations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        result = {
            **machine_info(),
            "options": dataclasses.asdict(self),
            "versions": {},
            "skipped": {},
            "runs": [],
        }
        for backend in self.backends:
            # Inference first, since `compile` would change it.
            run = {"backend": backend, **{work: {} for work in WORK}}
            for title, (function, told) in MODELS.items():
                if title == "timm" and backend != "torch":
                    continue
                self._profile(title, function, told, run, result)
            result["runs"].append(run)
        return result

    def _profile(self, title, function, told, run, result):
        """Adds the time of each operation of one model to a run."""
        names = "size", "image_size", "batch_size", "precision", "steps"
        setup = {name: getattr(self, name) for name in names} | told
        backend, pythons = run["backend"], self.peer_python
        peer = find_model(title, function, setup, backend, pythons, result)
        if not peer:
            return
        try:
            result["versions"][f"{title} on {backend}"] = peer.versions
            for work in WORK:
                peer.ask({"do": work})
                answer = peer.ask({"do": work, "profile": True})
                run[work][title] = answer["operations"]
        finally:
            peer.close()

    def markdown(self, result):
        """Formats tables of each operation's share of a model's time."""
        lines = []
        for run in result["runs"]:
            for work in WORK:
                lines += self._table(run, work)
        lines += [
            f"ViT-{self.size}/16, {self.image_size}×{self.image_size}, batch "
            f"{self.batch_size}, {self.precision}; {result['cpu']}, {result['cores']} "
            f"cores; {result['date']}. Shares of the time of all operations, summed "
            "over threads, excluding nested operations.",
            "",
        ]
        return "\n".join([*lines, *format_versions(result)])

    def _table(self, run, work):
        models = run[work]
        if not models:
            return []
        shown = []
        for operations in models.values():
            most = sorted(operations, key=operations.get, reverse=True)
            shown += most[: self.operations]
        totals = [sum(operations.values()) for operations in models.values()]
        cells = []
        for operation in dict.fromkeys(shown):
            times = [operations.get(operation, 0) for operations in models.values()]
            shares = (f"{a / b:.0%}" for a, b in zip(times, totals, strict=True))
            cells.append((f"`{operation}`", *shares))
        steps = 1 + self.steps
        cells.append(
            ("all, per batch", *(f"{1000 * t / steps:.0f} ms" for t in totals))
        )
        table = markdown_table(("Operation", *models), cells)
        return [f"**{run['backend']}, {work}**", "", table, ""]
