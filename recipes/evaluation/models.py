"""Loads models by name and reads their records: published weights, files, runs."""

import json
from pathlib import Path

import keras_cbvit
from keras_cbvit.pretrained import formats
from keras_cbvit.pretrained.sources import find_record, is_name

from ..files import read_json
from ..training.run_folder import model_file


def load_model(name):
    """Loads a model.

    Args:
        name: name of published weights, a file, a handle, a run folder, or a folder
            with weights in Hugging Face's or KerasHub's layout.

    Raises:
        ValueError: if the model does not exist or cannot be loaded.
        FileNotFoundError: if the file does not exist.
    """
    path = Path(name)
    if path.is_dir() and formats.recognize_folder(path):
        return keras_cbvit.load_model(path)
    is_file = name.endswith(".keras") or path.is_dir()
    return keras_cbvit.load_model(model_file(name) if is_file else name)


def is_published(name):
    """Returns whether a name is that of published weights, not a file or folder."""
    return is_name(name) and not Path(name).is_dir()


def recorded_evaluation(name, task):
    """Returns the recorded evaluation of published weights; `None` without one.

    Args:
        name: name of published weights, a file or a folder.
        task: task of the evaluation.
    """
    if not is_published(name):
        return None
    found = [each for each in find_record(name).evaluations if each.task == task]
    return found[0] if found else None


def run_data(name, keys):
    """Returns data options from the config.json of a run.

    Args:
        name: run folder, or a file in it.
        keys: names of the options.

    Returns:
        A dict of the options found; empty without a config.json.
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
    """Returns the task in a record or a run's config.json; `None` if neither has it."""
    if is_published(name):
        evaluations = find_record(name).evaluations
        return evaluations[0].task if evaluations else None
    try:
        return read_json(model_file(name).with_name("config.json")).get("task")
    except (OSError, ValueError, json.JSONDecodeError):
        return None


def recorded_dataset(evaluation, data_dir):
    """Returns the data set of a record; a folder or file as a path in `data_dir`."""
    dataset = evaluation.dataset
    if not dataset.startswith("."):
        return dataset
    return str(Path(data_dir or ".", dataset).absolute())
