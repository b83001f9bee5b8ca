"""Models by name: published weights, files and run folders, and what they record."""

import json
from pathlib import Path

import keras_cbvit
from keras_cbvit.pretrained import formats
from keras_cbvit.pretrained.sources import find_record, is_name

from ..files import read_json
from ..training.run_folder import model_file


def load_model(name):
    """A model by the name of published weights, a file, a handle or a folder.

    A folder is that of a run, or has weights in Hugging Face's or KerasHub's layout.

    Raises:
        ValueError: if there is no such model, or it cannot be loaded.
        FileNotFoundError: if there is no such file.
    """
    path = Path(name)
    if path.is_dir() and formats.recognize_folder(path):
        return keras_cbvit.load_model(path)
    is_file = name.endswith(".keras") or path.is_dir()
    return keras_cbvit.load_model(model_file(name) if is_file else name)


def is_published(name):
    """Whether a model's name is that of published weights, not of a file or folder."""
    return is_name(name) and not Path(name).is_dir()


def recorded_evaluation(name, task):
    """What a record says of how a model was measured; `None` if it has no record.

    Args:
        name: of published weights, a file or a folder.
        task: what the model must have been measured as.
    """
    if not is_published(name):
        return None
    found = [each for each in find_record(name).evaluations if each.task == task]
    return found[0] if found else None


def run_data(name, keys):
    """Options of the data in the config.json beside a file, or in a run folder.

    Args:
        name: of the file or folder.
        keys: the names of these options.

    Returns:
        A dict of those that it has; empty if there is no such file.
    """
    try:
        found = read_json(model_file(name).with_name("config.json"))
        data = found["experiment"]["data"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    if not isinstance(data, dict):
        return {}
    return {key: data[key] for key in keys if key in data}


def recorded_task(name):
    """The task that a record or a run's config.json says; `None` if neither does."""
    if is_published(name):
        evaluations = find_record(name).evaluations
        return evaluations[0].task if evaluations else None
    try:
        return read_json(model_file(name).with_name("config.json")).get("task")
    except (OSError, ValueError, json.JSONDecodeError):
        return None


def recorded_dataset(evaluation, data_dir):
    """The data set of a record: of a folder or a file, which lies in `data_dir`."""
    dataset = evaluation.dataset
    if not dataset.startswith("."):
        return dataset
    return str(Path(data_dir or ".", dataset).absolute())
