"""Measures how fast this package is beside others, on the same machine in the same run.

python -m recipes.benchmark input --data-dir FOLDER [--peer-python PATH ...]
"""

import dataclasses
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

OURS = "keras_cbvit"
OURS_ON_HOST = "keras_cbvit, erasing left to the device"
PEERS = {"timm": "timm", "keras_cv": "KerasCV"}


@dataclasses.dataclass(frozen=True)
class Input:
    """The training input: pictures decoded and augmented as DeiT does."""

    data_dir: Path
    """Folder of pictures, in class folders or not. They are read again and again, so
    the disk does not count."""
    images: int = 1000
    """How many images are prepared in each repeat, at least."""
    repeats: int = 5
    """How often each pipeline is measured, in turn with the others."""
    batch_size: int = 64
    image_size: int = 224
    peer_python: tuple[Path, ...] = ()
    """Python programs of environments in which timm or KerasCV may be, if they are not
    in this one."""
    json: Path | None = None
    """File for all the numbers."""


class PeerMissingError(Exception):
    """A peer is not installed; the message says what was not found."""


class Peer:
    """The pipeline of another library, in a process of its own, maybe elsewhere."""

    def __init__(self, name, python, setup):
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [python, Path(__file__).with_name("benchmark_peers.py"), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            # The input is the CPU's work; a GPU would be taken from this process.
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        try:
            answer = self._ask(json.dumps(setup))
            if "missing" in answer:
                raise PeerMissingError(answer["missing"])
        except BaseException:
            self.close()
            raise
        self.versions = answer["versions"]

    def seconds(self, number):
        """How long it takes to prepare so many images."""
        return self._ask(str(number))

    def close(self):
        self.process.terminate()
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self.errors):
            file.close()

    def _ask(self, line):
        try:
            print(line, file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.process.wait()
            self.errors.seek(0)
            last = self.errors.read().strip().rpartition("\n")[2]
            raise ChildProcessError(f"{self.process.args[-1]} ended: {last}")
        return json.loads(answer)


class Ours:
    """The pipeline of this package: `TrainingBatches`, then what the device does."""

    def __init__(self, files, image_size, batch_size, on_device):
        import numpy as np

        from recipes.data.batches import TrainingBatches
        from recipes.data.sources import Pictures, Split
        from recipes.experiment import Augmentation, Data

        # Of a data set that is smaller than a batch there would be none.
        files = files * -(-batch_size // len(files))
        data = Data(image_size=(image_size, image_size))
        split = Split(
            Pictures([Path(file) for file in files], data, originals=True),
            np.zeros(len(files), "int64"),
        )
        # Every image is decoded, and none is mixed, as in the other pipelines.
        policy = Augmentation(repeats=1, mixup_alpha=0.0, cutmix_alpha=0.0)
        self.batches = TrainingBatches(split, 1, batch_size, policy, seed=0)
        self.augment = _compiled_augment() if on_device else None
        self.step = 0

    def seconds(self, number):
        """How long it takes to prepare so many images."""
        import keras

        start = time.perf_counter()
        steps = number // self.batches.batch_size
        for batch, labels in self.batches.read(self.step, self.step + steps):
            if self.augment:
                images, _ = self.augment(batch, labels)
                # To NumPy, as devices may answer before they are done.
                keras.ops.convert_to_numpy(images)
        self.step += steps
        return time.perf_counter() - start

    def close(self):
        pass


def _compiled_augment():
    """What the training step does first with a batch, compiled as it is there."""
    import keras

    from recipes.data.on_device import augment

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(augment)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(augment)
    return augment


def measure_input(options):
    """Runs an `Input`; returns what `--json` writes.

    Raises:
        ValueError: if a number is not positive.
        FileNotFoundError: if there are no pictures.
    """
    import keras

    for name in ("images", "repeats", "batch_size", "image_size"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name}={getattr(options, name)} must be at least 1.")
    cores = _cores()
    files = _pictures_in(options.data_dir)
    number = -(-options.images // options.batch_size) * options.batch_size
    common = {
        "files": files,
        "image_size": options.image_size,
        "batch_size": options.batch_size,
    }
    versions = {"python": platform.python_version()}
    for package in ("keras", keras.backend.backend(), "numpy", "pillow"):
        versions[package] = metadata.version(package)
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": {"cpu": _cpu(), "cores": cores},
        "backend": keras.backend.backend(),
        "options": dataclasses.asdict(options),
        "pictures": len(files),
        "images_per_repeat": number,
        "versions": {OURS: versions},
        "skipped": {},
    }
    pipelines = {}
    try:
        pipelines[OURS] = Ours(**common, on_device=True)
        pipelines[OURS_ON_HOST] = Ours(**common, on_device=False)
        for name, title in PEERS.items():
            try:
                setup = {**common, "workers": cores}
                pipelines[title] = _find_peer(name, options.peer_python, setup)
                result["versions"][title] = pipelines[title].versions
            except PeerMissingError as error:
                result["skipped"][title] = str(error)
        for pipeline in pipelines.values():
            pipeline.seconds(number)  # warms up: compilation, workers, the disk
        speeds = {title: [] for title in pipelines}
        for _ in range(options.repeats):
            for title, pipeline in pipelines.items():
                speeds[title].append(number / pipeline.seconds(number))
    finally:
        for pipeline in pipelines.values():
            pipeline.close()
    return {**result, "images_per_second": summary(speeds)}


def summary(speeds):
    """Median, least and most of each pipeline, and the median ratio to timm.

    The ratios are of the same repeat, so that what slows the machine for a while
    counts for both.
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


def markdown(result):
    """The result as a table with what it was measured on."""
    options, machine = result["options"], result["machine"]
    lines = [
        "| Input pipeline | Images/s, median | Min | Max | ÷ timm |",
        "|---|---|---|---|---|",
    ]
    for title, row in result["images_per_second"].items():
        ratio = row["ratio_to_timm"]
        ratio = "–" if ratio is None else f"{ratio:.2f}"
        values = " | ".join(f"{row[key]:.0f}" for key in ("median", "min", "max"))
        lines.append(f"| {title} | {values} | {ratio} |")
    lines += [
        "",
        f"{machine['cpu']}, {machine['cores']} cores; {result['date']}. "
        f"{options['repeats']} repeats of {result['images_per_repeat']} images out of "
        f"{result['pictures']} pictures, in turn, in batches of "
        f"{options['batch_size']} at {options['image_size']}×{options['image_size']}.",
        "",
    ]
    for title, versions in result["versions"].items():
        named = ", ".join(f"{name} {number}" for name, number in versions.items())
        backend = f" on {result['backend']}" if title == OURS else ""
        lines.append(f"- {title}{backend}: {named}")
    lines += [f"- {title}: skipped ({why})" for title, why in result["skipped"].items()]
    return "\n".join(lines)


def _find_peer(name, pythons, setup):
    """The peer in the first environment that has it; this one is asked first."""
    missing = []
    for python in (sys.executable, *pythons):
        try:
            return Peer(name, python, setup)
        except PeerMissingError as error:
            missing.append(str(error))
    raise PeerMissingError("; ".join(dict.fromkeys(missing)))


def _pictures_in(folder):
    from recipes.data.sources import PICTURES

    files = sorted(
        str(path.resolve())
        for path in folder.expanduser().rglob("*")
        if path.suffix.lower() in PICTURES
    )
    if not files:
        raise FileNotFoundError(f"There are no pictures in {folder}; give --data-dir.")
    return files


def _cores():
    """The cores that this process, and the peers with it, may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _cpu():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


COMMANDS = {"input": (Input, measure_input)}


def main(arguments=None):
    from recipes.commands import parse, say_errors

    arguments = sys.argv[1:] if arguments is None else arguments
    known = ", ".join(COMMANDS)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\nWhat can be measured: {known}")
        return
    name, *rest = arguments
    if name not in COMMANDS:
        sys.exit(f"There is no benchmark {name!r}; there are {known}.")
    options_class, measure = COMMANDS[name]
    prog = f"recipes.benchmark {name}"
    options = parse(prog, options_class, options_class.__doc__, rest)
    with say_errors():
        result = measure(options)
        if options.json:
            options.json.write_text(json.dumps(result, indent=2, default=str) + "\n")
    print(markdown(result))


if __name__ == "__main__":
    main()
