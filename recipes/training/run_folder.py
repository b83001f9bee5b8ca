"""The folder of a run: its settings, and its trained models."""

import contextlib
import dataclasses
import json
import os
import platform
import subprocess
import zipfile
from importlib import metadata
from pathlib import Path

import keras

from keras_cbvit.pretrained.files import locate
from recipes.machine import run_on


def claim(experiment, command):
    """Writes `config.json`, or checks that it is of the same experiment and backend."""
    folder = experiment.run.folder
    if (folder / "config.json").exists():
        refuse_others(experiment, keras.backend.backend())
        return
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "command": command,
        "experiment": _settings(experiment),
        "backend": keras.backend.backend(),
        "versions": versions(),
        "commit": git_commit(),
        **run_on(),
    }
    partial = folder / "partial.json"
    partial.write_text(json.dumps(config, indent=2) + "\n")
    os.replace(partial, folder / "config.json")


def refuse_others(experiment, backend=None):
    """Raises a ValueError unless the experiment's folder is of a run of the same.

    Args:
        experiment: whose settings the run must have.
        backend: what it must have been trained on; `None` for any.
    """
    folder = experiment.run.folder
    file = folder / "config.json"
    try:
        found = json.loads(file.read_text())
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{file} is missing or damaged ({error}); remove {folder}, or give another "
            "folder."
        ) from error
    differences = list(_differences(found["experiment"], _settings(experiment)))
    if backend not in (None, found["backend"]):
        differences.append(f"backend={found['backend']!r}, not {backend!r}")
    if differences:
        raise ValueError(
            f"{folder} holds a run with other settings ({', '.join(differences)}); "
            "give another folder, or remove it."
        )


def _settings(experiment):
    """Of an experiment, as JSON has them."""
    return json.loads(json.dumps(dataclasses.asdict(experiment), default=str))


# What changes no weight may change between two starts of a run.
_FREE = (
    "publish",
    "weights_dir",
    "overwrite",
    "licence",
    "run_dir",
    "checkpoint_steps",
    "data_dir",
)


def _differences(found, settings):
    for group, values in settings.items():
        for key, value in values.items():
            if key not in _FREE and found.get(group, {}).get(key) != value:
                yield f"{key}={found.get(group, {}).get(key)!r}, not {value!r}"


def versions():
    """Of Python and the packages that decide what a run computes."""
    found = {"python": platform.python_version()}
    for package in ("keras", "tensorflow", "jax", "torch", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def git_commit():
    """The commit of this checkout, marked if files differ from it; `None` if none."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def model_file(name):
    """The `.keras` file of published weights by their name, of a path, or of a run.

    Raises:
        ValueError: on unknown weights, and on another kind of file.
        FileNotFoundError: if there is no such file.
    """
    is_folder = Path(name).is_dir()
    path = locate(Path(name) / "model.keras" if is_folder else name)
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is not a .keras file, which says what model it holds."
        )
    return path


def save(model, path):
    """Saves a `.keras` file, which is there as a whole or not at all."""
    partial = path.with_name("partial.keras")
    model.save(partial)
    os.replace(partial, path)
