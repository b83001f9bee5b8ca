"""The folder of a run: its settings, and its trained models."""

import contextlib
import dataclasses
import json
import platform
import subprocess
import warnings
import zipfile
from importlib import metadata
from pathlib import Path

import filelock
import keras

from keras_cbvit.files import InMemory, write
from keras_cbvit.pretrained.sources import locate

from ..data.fingerprints import FORM, describe_differences
from ..files import check_form, read_json, write_json
from ..machine import machine_info
from .devices import device, thread_variables, threads


def locked(folder):
    """A context in which no other process trains in a run folder, which is made.

    The lock is gone with this process, however it ends.

    Raises:
        ValueError: if another process trains there.
        OSError: if the folder cannot be written into.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return filelock.FileLock(folder / "lock", timeout=0).acquire()
    except filelock.Timeout as error:
        raise ValueError(
            f"Another process is training in {folder}; wait for it, or give another "
            "folder."
        ) from error


def claim(task, experiment, command, data=None):
    """Writes `config.json`, or checks that it is of the same experiment and backend.

    Args:
        task: of the experiment.
        experiment: whose run folder it is.
        command: what it is run by.
        data: what `recipes.data.fingerprints.dataset_fingerprint` gives, which must be
            the same, too; `None` for a run that will not be resumed.

    Raises:
        ValueError: if the folder is of another run.
    """
    folder = experiment.run.folder
    has_checkpoints = any(folder.glob("checkpoints/step_*"))
    # Checkpoints without it would be resumed, whatever they are of.
    if (folder / "config.json").exists() or has_checkpoints:
        refuse_others(experiment, keras.backend.backend())
        if data is not None:
            _refuse_other_data(folder, data)
        if has_checkpoints or (folder / "model.keras").exists():
            return
        # Nothing was trained yet: what is written is of this start.
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "command": command,
        "task": task.name,
        "experiment": _settings(experiment),
        "backend": keras.backend.backend(),
        "versions": versions(),
        "commit": git_commit(),
        **machine_info(),
        "device": device(),
        "threads": threads(),
        "thread_variables": thread_variables(),
    }
    if data is not None:
        config["data"] = data
    write_json(folder / "config.json", config)


def read_config(folder):
    """What `config.json` of a run folder says, as a dict.

    Raises:
        ValueError: if it is missing or damaged.
    """
    file = folder / "config.json"
    try:
        found = read_json(file)
        check_form(found, _FORM)
        if "data" in found:  # else it is only printed
            check_form(found, _TO_GO_ON)
    except (FileNotFoundError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"{file} is missing or damaged ({reason}); remove {folder}, or give "
            "another folder."
        ) from error
    return found


_GROUPS = ("network", "data", "augmentation", "training", "run")
_FORM = {
    "experiment": dict.fromkeys(_GROUPS, dict),
    "backend": str,
    "versions": dict,
    "commit": (str, type(None)),
    "date": str,
    "cpu": str,
    "cores": int,
}
_TO_GO_ON = {"data": FORM, "device": str, "threads": int, "thread_variables": dict}


def refuse_others(experiment, backend=None):
    """Raises a ValueError unless the experiment's folder is of a run of the same.

    Args:
        experiment: whose settings the run must have.
        backend: what it must have been trained on; `None` for any.
    """
    folder = experiment.run.folder
    found = read_config(folder)
    differences = list(_differences(found["experiment"], experiment))
    if backend not in (None, found["backend"]):
        differences.append(f"backend={found['backend']!r:.80}, not {backend!r}")
    _refuse(folder, "with other settings", differences, ", ")


def _refuse_other_data(folder, data):
    found = read_config(folder)
    if "data" not in found:
        raise ValueError(
            f"{folder / 'config.json'} does not say what data the run was trained on; "
            "give another folder, or remove it."
        )
    differences = list(describe_differences(found["data"], data))
    _refuse(folder, "on other data", differences, "; ")


def refuse_other_test_data(folder, dataset):
    """Raises a ValueError if a run's test images were others, as far as it says so."""
    recorded = read_config(folder).get("data")
    if recorded is not None and recorded["test"] != dataset.test.fingerprint():
        raise ValueError(
            f"{folder} holds a run that was evaluated on other test images; give its "
            "--data-dir, or another --runs."
        )


def _refuse(folder, how, differences, separator):
    if differences:
        more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise ValueError(
            f"{folder} holds a run {how} ({separator.join(differences[:5])}{more}); "
            "give another folder, or remove it."
        )


def warn_elsewhere(folder):
    """Warns if a run goes on with what may change the last bits of its numbers."""
    found, backend = read_config(folder), keras.backend.backend()
    packages = ("python", "keras", "numpy", "pillow", backend)
    now = {each: versions().get(each) for each in packages}
    now |= {"commit": git_commit(), "device": device()}
    before = found | found["versions"]
    if now["device"] == found["device"] == "CPU":
        now |= {
            "cpu": machine_info()["cpu"],
            "threads": threads(),
            **thread_variables(),
        }
        before |= found["thread_variables"]
    differences = [
        f"{key} {before.get(key)!s:.80}, now {value!s:.80}"
        for key, value in now.items()
        if before.get(key) != value
    ]
    if differences:
        warnings.warn(
            f"{folder} was begun with {'; '.join(differences)}: its weights will not "
            "be bit for bit those of an uninterrupted run.",
            stacklevel=2,
        )


def _settings(experiment):
    """Of an experiment, as JSON has them."""
    return _as_json(dataclasses.asdict(experiment))


def _as_json(values):
    return json.loads(json.dumps(values, default=str))


# What changes no weight may change between two starts of a run.
_FREE = (
    "publish",
    "weights_dir",
    "overwrite",
    "license",
    "run_dir",
    "checkpoint_steps",
    "data_dir",
    "workers",
    "data_service",
    "tensorboard",
    "wandb",
    "report",
)


def _differences(found, experiment):
    for group, values in _settings(experiment).items():
        # What a run of an older version does not say was as it is by default.
        fields = dataclasses.fields(getattr(experiment, group))
        before = _as_json({field.name: field.default for field in fields})
        before |= found[group]
        for key, value in values.items():
            if key not in _FREE and before[key] != value:
                yield f"{key}={before[key]!r:.80}, not {value!r:.80}"


def versions():
    """Of Python and the packages that decide what a run computes."""
    found = {"python": platform.python_version()}
    for package in ("keras", "tensorflow", "jax", "torch", "numpy", "pillow"):
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
    path, _ = locate(Path(name) / "model.keras" if is_folder else name)
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is not a .keras file, which says what model it holds."
        )
    return path


def save(model, path):
    """Saves a `.keras` file, which is there as a whole or not at all."""
    file = InMemory(path.name)
    model.save(file)
    write(path, file.getbuffer())
