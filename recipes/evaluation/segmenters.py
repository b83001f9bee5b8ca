"""Segmentation models with the pictures they are measured on, side by side."""

import dataclasses
import functools
import importlib
import json

import keras

import recipes.configs.segmentation
from keras_cbvit.pretrained.catalog import list_weights
from keras_cbvit.pretrained.predictions import class_names
from recipes.commands import config_names_in
from recipes.data.segmentation.pairs import load_pairs
from recipes.evaluation.pixels import measure, predicted_pictures
from recipes.figures import draw_segmentations, short_titles
from recipes.segmentation_experiment import Data
from recipes.training.run_folder import model_file


def measure_segmenters(models, on, options, batch_size, report=lambda row: None):
    """Measures segmentation models on whole pictures.

    Args:
        models: pairs of a name, as `data_of` takes it, and a model.
        on: data sets to measure each on, as `recipes.segment` takes them; `None` for
            the model's own.
        options: see `data_of`.
        batch_size: pictures of one size that are predicted at once.
        report: a function that is called with each result as soon as it is there.

    Returns:
        A dict for each data set and model: `model`, `on`, `backend`, and what
        `recipes.evaluation.pixels.measure` gives, `class_iou` by the classes' names.

    Raises:
        ValueError: if the classes of a model and a data set are not the same, or on
            wrong labels.
        OSError: if a data set is not there.
    """
    rows = []
    load = functools.lru_cache(maxsize=1)(load_pairs)
    for dataset in on:
        for name, model in models:
            data = data_of(name, {**options, "dataset": dataset})
            pairs = load(data).test
            _refuse_other_classes(name, model, data)
            found = measure(model, pairs, data.scale, batch_size)
            class_iou = zip(data.class_names, found["class_iou"], strict=True)
            row = {
                "model": name,
                "on": load(data).description,
                "backend": keras.backend.backend(),
                **found,
                "class_iou": dict(class_iou),
            }
            report(row)
            rows.append(row)
    return rows


def draw_segmenters(models, dataset, options, batch_size, file):
    """Draws some pictures of a set beside what each model predicts.

    For the arguments see `measure_segmenters`; `dataset` is one of its `on`, which all
    models are for, and `file` where to draw.
    """
    data = [data_of(name, {**options, "dataset": dataset}) for name, _ in models]
    if len(set(data)) > 1:
        raise ValueError(
            f"{models[0][0]} and others are measured on different pictures or at "
            "different scales; draw them one by one."
        )
    pairs = load_pairs(data[0]).test
    networks = [model for _, model in models]
    rows = predicted_pictures(networks, pairs, data[0].scale, batch_size)
    titles = short_titles([name for name, _ in models])
    draw_segmentations(rows, data[0].class_names, file, titles)


def data_of(name, options):
    """What a segmentation model is measured on: its classes, its labels, its scale.

    They are those of the run folder that its file is in, else those of the config that
    the tag of its name is.

    Args:
        name: of published weights, a `.keras` file or a run folder.
        options: what is asked for instead, `dataset`, `data_dir` and `test_split`;
            `None` where nothing is.

    Returns:
        A `recipes.segmentation_experiment.Data` without training pictures.

    Raises:
        ValueError: if there is neither such a folder nor such a config.
    """
    configs = config_names_in(recipes.configs.segmentation)
    of_run = model_file(name).with_name("config.json")
    tag = name.partition(".")[2]
    if of_run.exists():
        data = _data_of_run(of_run)
    elif tag in configs:
        module = importlib.import_module(f"recipes.configs.segmentation.{tag}")
        data = module.config().data
    else:
        raise ValueError(
            f"{name} does not say what its classes, labels and scale are: it is in no "
            f"run folder, and has no tag that is a config ({', '.join(configs)}). Use "
            "its run folder, or recipes.evaluation.pixels.measure in Python."
        )
    asked = {key: value for key, value in options.items() if value is not None}
    data = dataclasses.replace(data, **asked)
    return dataclasses.replace(data, train_split=data.test_split)


def _data_of_run(file):
    """The `Data` that a run's config.json has."""
    try:
        found = Data(**json.loads(file.read_text())["experiment"]["data"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is not that of a run of recipes.segment ({error})."
        ) from error
    # JSON has no tuples.
    lists = {key: tuple(v) for key, v in vars(found).items() if isinstance(v, list)}
    return dataclasses.replace(found, **lists)


def _refuse_other_classes(name, model, data):
    measured = data.class_names
    known = tuple(class_names(name)) if name in list_weights() else measured
    if known != measured or len(known) != model.output_shape[-1]:
        raise ValueError(
            f"{name} has {model.output_shape[-1]} classes, which are not the "
            f"{len(measured)} that it would be measured on: {', '.join(measured[:5])}…"
        )
