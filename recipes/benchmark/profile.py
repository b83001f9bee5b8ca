"""Where a model's time goes, by the profiler of its backend."""

import dataclasses
from pathlib import Path

from ..machine import run_on, versions_of
from ..tables import markdown_table
from .model import CB, KERAS_PEERS, OURS, TORCH_PEERS, WORK, find_model

MODELS = {CB: OURS[CB], **KERAS_PEERS, "timm": TORCH_PEERS["timm"]}


@dataclasses.dataclass(frozen=True)
class Profile:
    """The operations that take a ViT's time, ours beside those of its peers."""

    backends: tuple[str, ...] = ("tensorflow", "jax", "torch")
    """timm is profiled beside torch."""
    size: str = "Ti"
    """Ti, S or B."""
    image_size: int = 224
    batch_size: int = 16
    precision: str = "float32"
    """float32 or mixed_bfloat16."""
    steps: int = 4
    """Batches that are profiled beside the first, after as many that warm up."""
    operations: int = 8
    """A table has so many of each model, those that take it the most time."""
    peer_python: tuple[Path, ...] = ()
    """Python programs of environments in which the backends and peers may be, if they
    are not in this one."""
    json: Path | None = None
    """File for all the numbers."""

    def measure(self):
        """Profiles; returns what `--json` writes.

        Raises:
            ValueError: if a number is not positive.
        """
        for name in ("image_size", "batch_size", "steps", "operations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        result = {
            **run_on(),
            "options": dataclasses.asdict(self),
            "versions": {},
            "skipped": {},
            "runs": [],
        }
        for backend in self.backends:
            # Inference first: `compile` would change it.
            run = {"backend": backend, **{work: {} for work in WORK}}
            for title, (function, told) in MODELS.items():
                if title == "timm" and backend != "torch":
                    continue
                self._profile(title, function, told, run, result)
            result["runs"].append(run)
        return result

    def _profile(self, title, function, told, run, result):
        """Adds the seconds of each operation of one model to a run."""
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
        """Tables of the share that operations have of the time of each model."""
        lines = []
        for run in result["runs"]:
            for work in WORK:
                lines += self._table(run, work)
        lines += [
            f"ViT-{self.size}/16, {self.image_size}×{self.image_size}, batch "
            f"{self.batch_size}, {self.precision}; {result['cpu']}, {result['cores']} "
            f"cores; {result['date']}. Shares of the time of all operations, which is "
            "the sum over the threads; without what an operation calls.",
            "",
        ]
        return "\n".join([*lines, *versions_of(result)])

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
        cells.append(("all, a batch", *(f"{1000 * t / steps:.0f} ms" for t in totals)))
        table = markdown_table(("Operation", *models), cells)
        return [f"**{run['backend']}, {work}**", "", table, ""]
