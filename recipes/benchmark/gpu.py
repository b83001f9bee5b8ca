"""Speed and CIFAR-10 on a GPU that is available for a short time, without a network.

Each job runs in its own process with a time limit. A job that fails does not stop the
others, and its results are saved as soon as it ends. Repeat the command to continue.
"""

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ..files import read_json, write_json
from ..machine import machine_info
from ..tables import markdown_table
from ..training.logs import read_log
from .model import CB, NO_FLASH, PLAIN, TORCH_PEERS, Model
from .peer import CHECKOUT

BATCH_SIZES = {"Ti": 512, "S": 256, "B": 128}
KINDS = {"plain": "none", "CB": "cb", "CB_S": "cbs"}


@dataclasses.dataclass(frozen=True)
class Job:
    """A command, and where its results are."""

    name: str
    """What it measures, for the tables."""
    backend: str
    """The backend that it runs on."""
    arguments: tuple[str, ...]
    """Arguments of Python."""
    results: Path
    """The JSON file of a benchmark, or the folder of a training run."""
    minutes: float
    """Time limit."""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """Measure models beside timm, the recipe's step and CIFAR-10 on a GPU."""

    minutes: float = 25.0
    """Time limit of the command. Jobs that do not fit are left out."""
    out: Path = Path("runs/gpu")
    """Folder for gpu.json, gpu.md and gpu.log."""
    runs: Path = Path("runs/gpu_runs")
    """Folder for the training runs and their checkpoints."""
    data_dir: Path | None = None
    """TFDS data directory of CIFAR-10."""
    smoke: bool = False
    """Whether to use small sizes and the digits, to check the setup without a GPU."""

    @property
    def json(self):
        """The file of the results."""
        return self.out / "gpu.json"

    @property
    def _precision(self):
        # PyTorch emulates bfloat16 on CPUs that do not support it.
        return "float32" if self.smoke else "mixed_bfloat16"

    def measure(self):
        """Runs the jobs; returns the results of this and of earlier calls.

        Raises:
            ValueError: if the time limit is not positive, or the results of an earlier
                call are damaged.
        """
        if not self.minutes > 0:
            raise ValueError(f"minutes={self.minutes} must be above 0.")
        end = time.monotonic() + 60 * self.minutes
        for folder in (self.out, self.runs):
            folder.mkdir(parents=True, exist_ok=True)
        result = {**machine_info(), "gpu": _gpu(), "jobs": {}}
        if self.json.exists():
            result["jobs"] = read_json(self.json)["jobs"]
        for job in self.jobs():
            left = end - time.monotonic()
            if left <= 0 or "result" in result["jobs"].get(job.name, {}):
                continue
            result["jobs"][job.name] = self._run(job, min(left, 60 * job.minutes))
            write_json(self.json, result)
            (self.out / "gpu.md").write_text(self.markdown(result) + "\n")
        return result

    def jobs(self):
        """Returns the jobs, the most important ones first."""
        models = (CB, PLAIN, *TORCH_PEERS)
        flash = (CB, NO_FLASH)
        small = [
            self._speed(size, backend, models, f"ViT-{size}")
            for size in ("Ti", "S")
            for backend in ("torch", "jax")
        ]
        attention = [
            self._speed("S", backend, flash, "ViT-S, flash attention")
            for backend in ("torch", "jax")
        ]
        large = [self._speed("B", b, models, "ViT-B") for b in ("torch", "jax")]
        recipe = [self._recipe("s", 1024), self._recipe("b", 256)]
        cifar10 = [self._cifar10(kind, seed) for seed in range(3) for kind in KINDS]
        return [*small, *attention, *recipe, *large, *cifar10]

    def _speed(self, size, backend, models, title):
        name = f"{title} on {backend}"
        file = self.runs / f"{name.replace(' ', '_')}.json"
        sizes = ("32", "2") if self.smoke else ("224", str(BATCH_SIZES[size]))
        steps = ("1", "1") if self.smoke else ("20", "3")
        return Job(
            name,
            backend,
            (
                *("-m", "recipes.benchmark", "model"),
                *("--sizes", size, "--backends", backend, "--models", *models),
                *("--image-sizes", sizes[0], "--batch-sizes", sizes[1]),
                *("--steps", steps[0], "--repeats", steps[1]),
                *("--precisions", self._precision, "--json", str(file)),
            ),
            file,
            minutes=4,
        )

    def _recipe(self, size, batch_size):
        """Returns a job that trains by the paper's recipe on CIFAR-10 at 224×224."""
        name = f"recipe, ViT-{size.upper()}, batch {batch_size}"
        pixels = "32" if self.smoke else "224"
        options = ["--model", f"vitcb_{size}", "--image-size", pixels, pixels]
        options += ["--global-batch-size", str(batch_size), "--test-split", "test"]
        options += ["--epochs", "2", "--warmup-epochs", "0"]
        return self._training("imagenet", name, options, minutes=3)

    def _cifar10(self, kind, seed):
        options = ["--broadcast", KINDS[kind], "--seed", str(seed)]
        return self._training("cifar10", f"CIFAR-10, {kind}, seed {seed}", options, 10)

    def _training(self, config, name, options, minutes):
        folder = self.runs / name.replace(", ", "_").replace(" ", "_")
        if self.smoke:
            small = ("--dataset", "digits", "--global-batch-size", "8", "--smoke")
            options = [*options, *small]
        else:
            options = [*options, "--dataset", "cifar10"]
            options += ["--data-dir", str(self.data_dir)] if self.data_dir else []
        return Job(
            name,
            "jax",
            (
                *("-m", "recipes.train", config, *options),
                *("--precision", self._precision, "--run-dir", str(folder)),
                *("--no-report", "--no-tensorboard"),
            ),
            folder.with_name(f"{folder.name}_smoke") if self.smoke else folder,
            minutes,
        )

    def _run(self, job, seconds):
        """Runs a job and returns its seconds and its results, or an error."""
        start = time.monotonic()
        environment = {
            **os.environ,
            "KERAS_BACKEND": job.backend,
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")])
            ),
            # Several models share the GPU.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        with open(self.out / "gpu.log", "a") as log:
            log.write(f"\n{job.name}: python {shlex.join(job.arguments)}\n")
            log.flush()
            process = subprocess.Popen(
                [sys.executable, *job.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # so that the time limit ends its children too
            )
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                _end(process)
        found: dict[str, Any] = {"seconds": round(time.monotonic() - start, 1)}
        if status != 0:
            why = "the time limit" if status is None else f"exit status {status}"
            found["error"] = f"{why}; see gpu.log"
        if job.results.is_dir():  # the epochs count, even if the run is not complete
            found["epochs"] = read_log(job.results / "log.jsonl")
        if status == 0:
            found["result"] = (
                json.loads(job.results.read_text())
                if job.results.is_file()
                else found["epochs"][-1]
            )
        return found

    def markdown(self, result):
        """Formats the results as tables."""
        jobs = result["jobs"]
        measured = [j["result"] for j in jobs.values() if "runs" in j.get("result", {})]
        lines = [f"{result['gpu']}; {result['cpu']}, {result['cores']} cores."]
        for found in measured:
            options = {**found["options"], "json": None, "figure": None}
            lines.append(Model(**options).markdown(found))
        rows = [
            (name, len(epochs), *(epochs[-1].get(key) for key in _COLUMNS))
            for name, job in jobs.items()
            if (epochs := job.get("epochs"))
        ]
        titles = ("Run", "Epochs", *_COLUMNS.values())
        lines.append(markdown_table(titles, rows, [0, 0, 0, 2, 4]))
        lines += [f"- {name}: {j['error']}" for name, j in jobs.items() if "error" in j]
        return "\n\n".join(lines)


_COLUMNS = {
    "images_per_second": "images/s",
    "data_wait": "waiting for images",
    "val_accuracy": "top-1",
}


def _end(process):
    """Ends a process and its children, which may write a checkpoint first."""
    for number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _gpu():
    """Returns the name and driver of the GPU, or that there is none."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "no GPU"
    return found.stdout.strip().replace("\n", "; ")
