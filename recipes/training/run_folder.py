"""Run folders: lock, settings in `config.json`, and saved models."""

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


def lock(folder):
    """Creates a run folder and returns a context that locks it.

    The lock is released when the process ends, even by a crash.

    Raises:
        ValueError: if another process is training in the folder.
        OSError: if the folder is not writable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return filelock.FileLock(folder / "lock", timeout=0).acquire()
    except filelock.Timeout as error:
        raise ValueError(
            f"Another process is training in {folder}; wait until it ends, or use "
            "another folder."
        ) from error


def claim(task, experiment, command, data=None):
    """Writes `config.json`, or checks an existing one.

    Args:
        task: task of the experiment.
        experiment: experiment that the run folder belongs to.
        command: command that runs the experiment.
        data: result of `recipes.data.fingerprints.dataset_fingerprint`; `None` for a
            run that will not be resumed.

    Raises:
        ValueError: if the folder holds a run with other settings, data or backend.
    """
    folder = experiment.run.folder
    has_checkpoints = any(folder.glob("checkpoints/step_*"))
    # Checkpoints without config.json may belong to any run.
    if (folder / "config.json").exists() or has_checkpoints:
        refuse_others(experiment, keras.backend.backend())
        if data is not None:
            _refuse_other_data(folder, data)
        if has_checkpoints or (folder / "model.keras").exists():
            return
        # Nothing was trained yet: write the config of this start.
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
    """Returns the content of a run folder's `config.json` as a dict.

    Raises:
        ValueError: if it is missing or damaged.
    """
    file = folder / "config.json"
    try:
        found = read_json(file)
        check_form(found, _FORM)
        if "data" in found:  # the run can be resumed
            check_form(found, _RESUME_FORM)
    except (FileNotFoundError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"{file} is missing or damaged ({reason}); remove {folder}, or use another "
            "folder."
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
_RESUME_FORM = {"data": FORM, "device": str, "threads": int, "thread_variables": dict}


def refuse_others(experiment, backend=None):
    """Raises a ValueError if an experiment's run folder holds another run.

    Args:
        experiment: experiment with the expected settings.
        backend: expected backend; `None` for any.
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
            f"{folder / 'config.json'} does not describe the data of the run; use "
            "another folder, or remove this one."
        )
    differences = list(describe_differences(found["data"], data))
    _refuse(folder, "on other data", differences, "; ")


def refuse_other_test_data(folder, dataset):
    """Raises a ValueError if a run recorded other test images than the data set's."""
    recorded = read_config(folder).get("data")
    if recorded is not None and recorded["test"] != dataset.test.fingerprint():
        raise ValueError(
            f"{folder} contains a run that was evaluated on other test images; set the "
            "--data-dir of the run, or another --runs."
        )


def _refuse(folder, how, differences, separator):
    if differences:
        more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise ValueError(
            f"{folder} contains a run {how} ({separator.join(differences[:5])}{more}); "
            "use another folder, or remove this one."
        )


def warn_elsewhere(folder):
    """Warns if a resumed run may differ bitwise from an uninterrupted one."""
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
            f"{folder} was started with {'; '.join(differences)}, so its weights may "
            "not be bit-for-bit equal to those of an uninterrupted run.",
            stacklevel=2,
        )


def _settings(experiment):
    """Returns the settings of an experiment as JSON stores them."""
    return _as_json(dataclasses.asdict(experiment))


def _as_json(values):
    return json.loads(json.dumps(values, default=str))


# Settings that do not affect the weights, so they may change when a run resumes.
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
    "keep_freed_memory",
)


def _differences(found, experiment):
    for group, values in _settings(experiment).items():
        # Settings that an older version did not record had their defaults.
        fields = dataclasses.fields(getattr(experiment, group))
        before = _as_json({field.name: field.default for field in fields})
        before |= found[group]
        for key, value in values.items():
            if key not in _FREE and before[key] != value:
                yield f"{key}={before[key]!r:.80}, not {value!r:.80}"


def versions():
    """Returns the versions of Python and of the packages that affect the results."""
    found = {"python": platform.python_version()}
    for package in ("keras", "tensorflow", "jax", "torch", "numpy", "pillow"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def git_commit():
    """Returns the commit of the checkout, `-dirty` if changed; `None` without Git."""
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
    """Returns the path of a `.keras` file.

    Args:
        name: name of published weights, path of a file, or run folder.

    Raises:
        ValueError: if the weights are unknown or the file is not a `.keras` file.
        FileNotFoundError: if the file does not exist.
    """
    is_folder = Path(name).is_dir()
    path, _ = locate(Path(name) / "model.keras" if is_folder else name)
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is not a .keras file, the only format that describes its model."
        )
    return path


def save(model, path):
    """Saves a model as a `.keras` file, atomically."""
    file = InMemory(path.name)
    model.save(file)
    write(path, file.getbuffer())
