"""Evaluates and draws segmentation models side by side."""

import dataclasses
import functools
import warnings
from pathlib import Path

import keras
import numpy as np

from ..data.segmentation.pairs import load_pairs
from ..figures import draw_segmentations, short_titles
from ..files import check_form, read_json
from ..options.segmentation import Data
from ..training.run_folder import model_file
from .matching import match_pairs
from .models import recorded_evaluation
from .pixels import describe_omitted, measure, predict_examples
from .sections import Worst, segmentation

# Fields of `Data` that determine the test images, besides the folder.
MEASURED = ("test_split", "class_names", "ignored_label", "scale")
# Form of a `Data` in JSON.
_FORM = {
    **dict.fromkeys(("dataset", "train_split", "test_split"), str),
    "data_dir": (str, type(None)),
    "class_names": [str],
    "ignored_label": int,
    "scale": [int, int],
    "image_size": [int, int],
}


def measure_segmenters(models, on, options, batch_size, report=lambda *_: None):
    """Evaluates segmentation models on whole images.

    Args:
        models: pairs of a name, see `data_of`, and a model.
        on: list of data sets, as for `recipes.train`; `None` in it for the model's own.
        options: see `data_of`.
        batch_size: number of images per batch.
        report: function that is called with each result as soon as it is available, and
            with a function that returns its sections of a report.

    Returns:
        A dict for each data set and model: `model`, `on`, `folder` (of the data set),
        `backend`, and the result of `recipes.evaluation.pixels.measure` with class
        names.

    Raises:
        ValueError: if a model lacks classes of a data set, or labels are invalid.
        OSError: if a data set is missing.
    """
    rows = []
    load = functools.lru_cache(maxsize=1)(load_pairs)
    for dataset in on:
        for name, model in models:
            data = data_of(name, {**options, "dataset": dataset})
            loaded = load(data)
            pairs, names = match_pairs(name, model, loaded.test, loaded.class_names)
            worst = Worst()
            found = measure(model, pairs, data.scale, batch_size, worst.add)
            if few := describe_omitted(found, names):
                warnings.warn(f"{name}: {few}.", stacklevel=2)
            row = {
                "model": name,
                "on": f"{loaded.description}, {data.test_split}",
                "folder": _folder(data),
                "backend": keras.backend.backend(),
                **found,
                "class_iou": dict(zip(names, found["class_iou"], strict=True)),
            }
            for kind in ("not_labeled", "never_predicted"):
                row[kind] = [names[number] for number in found[kind]]
            report(row, functools.partial(segmentation, found, worst, pairs, names))
            rows.append(row)
    return rows


def data_to_draw(models, dataset, options):
    """Returns the `Data` of the images to draw with the models' predictions.

    For the arguments, see `measure_segmenters`; `dataset` is one of its `on`.

    Raises:
        ValueError: if the models are evaluated on different images.
    """
    found = [data_of(name, {**options, "dataset": dataset}) for name, _ in models]
    measured_on = {
        (_folder(each), *(getattr(each, field) for field in MEASURED)) for each in found
    }
    if len(measured_on) > 1:
        raise ValueError(
            f"{', '.join(name for name, _ in models)} are evaluated on different "
            "images, classes or scales, so one figure cannot show them all; evaluate "
            "each with a separate --figure."
        )
    return found[0]


def draw_segmenters(models, data, batch_size, file):
    """Draws images of `data_to_draw` with the predictions of each model."""
    dataset = load_pairs(data)
    names, numbers = list(dataset.class_names), []
    for name, model in models:
        _, own = match_pairs(name, model, dataset.test, dataset.class_names)
        names += [each for each in own if each not in names]
        numbers.append(np.array([names.index(each) for each in own]))
    networks = [model for _, model in models]
    rows = [
        [image, labels, *(n[p] for n, p in zip(numbers, predictions, strict=True))]
        for image, labels, *predictions in predict_examples(
            networks, dataset.test, data.scale, batch_size
        )
    ]
    titles = short_titles([name for name, _ in models])
    draw_segmentations(rows, names, file, titles)


def data_of(name, options):
    """Returns the data set, classes and scale that a model is evaluated on.

    They are read from the run folder of the model's file, or else from its record.

    Args:
        name: name of published weights, a `.keras` file or a run folder.
        options: dict of `dataset`, `data_dir` and `test_split` to use instead; `None`
            keeps the model's.

    Returns:
        A `recipes.options.segmentation.Data` without training images.

    Raises:
        ValueError: if the model has neither a run folder nor a record.
    """
    of_run = model_file(name).with_name("config.json")
    if of_run.exists():
        data = _data_of_run(of_run)
    elif (measured := recorded_evaluation(name, "segmentation")) is not None:
        data = _data_of_record(name, measured)
    else:
        raise ValueError(
            f"{name} is not in a run folder and has no record, so its classes, labels "
            "and scale are unknown. Pass its run folder, or call "
            "recipes.evaluation.pixels.measure in Python."
        )
    asked = {key: value for key, value in options.items() if value is not None}
    data = dataclasses.replace(data, **asked)
    return dataclasses.replace(data, train_split=data.test_split)


def _folder(data):
    return str(Path(data.data_dir or "", data.dataset).expanduser().absolute())


def _data_of_run(file):
    """Returns the `Data` in a run's config.json."""
    try:
        found = read_json(file)
        check_form(found, {"experiment": {"data": _FORM}})
        return _data(found["experiment"]["data"])
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{file} was not written by a segmentation run ({error!s:.200})."
        ) from error


def _data_of_record(name, measured):
    """Returns the `Data` of a record's evaluation."""
    own = {"dataset": measured.dataset, "test_split": measured.split}
    needed = ("class_names", "ignored_label", "scale")
    try:
        check_form(measured.options, {key: _FORM[key] for key in needed})
        return _data({**measured.options, **own})
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"The record of {name} does not describe its evaluation ({error!s:.200})."
        ) from error


def _data(found):
    """Returns a `Data` from JSON, with lists converted to tuples."""
    lists = {key: tuple(v) for key, v in found.items() if isinstance(v, list)}
    return Data(**{**found, **lists})
