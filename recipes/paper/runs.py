"""The training runs behind the tables: each model, size and seed once."""

import csv
import dataclasses
import functools
import importlib
import json
import os
from pathlib import Path
from typing import NamedTuple

import keras

from keras_cbvit.pretrained.architectures import SIZES
from recipes.data.sources import load_dataset
from recipes.experiment import build_model
from recipes.paper.measures import BY_EPOCH, measure, require_sets
from recipes.paper.models import MODELS
from recipes.train import as_run, train
from recipes.training import run_folder


class Recipe(NamedTuple):
    """How models are trained on a data set."""

    config: str
    """For ViT-Ti, S and B."""
    mini: str | None
    """For the size "mini", of two CPU cores."""
    classes: int


RECIPES = {
    "imagenet": Recipe("imagenet", None, 1000),
    "cifar10": Recipe("cifar10", "cifar10_mini", 10),
    "digits": Recipe("digits", "digits", 10),
}


@dataclasses.dataclass(frozen=True)
class Runs:
    """Trains models as the recipe of a data set does, or takes them from before."""

    folder: Path
    """Of all run folders, `DATASET/SIZE/MODEL/seed_N`."""
    dataset: str
    """A key of `RECIPES`."""
    options: dict
    """Other settings of all runs, `{"training": {"epochs": 6}, ...}`, by the groups of
    `recipes.experiment.Experiment`."""

    def experiment(self, name, size, seed):
        """What trains a model.

        Args:
            name: of `recipes.paper.models.MODELS`.
            size: `"mini"`, `"ti"`, `"s"` or `"b"`.
            seed: of weights, order and augmentation.
        """
        recipe = RECIPES[self.dataset]
        config = recipe.mini if size == "mini" else recipe.config
        experiment = importlib.import_module(f"recipes.configs.{config}").config()
        folder = self.folder / self.dataset / size / name / f"seed_{seed}"
        own = {
            "network": {"model": "ViTCB", **SIZES.get(size, {}), **MODELS[name]},
            "run": {"seed": seed, "run_dir": folder},
        }
        groups = {
            group: dataclasses.replace(
                getattr(experiment, group),
                **self.options.get(group, {}),
                **own.get(group, {}),
            )
            for group in self.options.keys() | own.keys()
        }
        return dataclasses.replace(experiment, **groups)

    def build(self, name, size):
        """The untrained model, whose parameters can be counted."""
        experiment = self.experiment(name, size, seed=0)
        classes = RECIPES[self.dataset].classes
        return build_model(experiment.network, experiment.data, classes, "float32")

    def settings(self, name, size, seed):
        """How a model was trained: settings, backend, versions, machine of its run."""
        experiment = as_run(self.experiment(name, size, seed))
        config = json.loads((experiment.run.folder / "config.json").read_text())
        groups = ("data", "augmentation", "training")
        return {
            **{group: config["experiment"][group] for group in groups},
            "smoke": experiment.run.smoke,
            **{key: config[key] for key in ("backend", "versions", "commit")},
            **{key: config[key] for key in ("date", "cpu", "cores")},
        }

    def values(self, name, size, seed, measures):
        """What was measured of a model, by measure; trains it if it is not yet.

        A run folder's config.json, log.csv and measures.json are enough for what was
        measured before.
        """
        experiment = self.experiment(name, size, seed)
        folder = experiment.run.folder
        file = folder / "measures.json"
        is_trained, is_measured = (folder / "model.keras").exists(), file.exists()
        known = _read(file) if is_measured else {}
        missing = [each for each in measures if each not in known.keys() | BY_EPOCH]
        if is_measured and missing and not is_trained:
            raise ValueError(
                f"{folder} has measures.json, but no model.keras to measure "
                f"{', '.join(missing)} of; give another --runs."
            )
        if is_trained:
            run_folder.refuse_others(as_run(experiment), keras.backend.backend())
        elif is_measured:
            run_folder.refuse_others(as_run(experiment))  # any backend can print it
        if missing or not is_measured:
            if not is_trained:
                require_sets(missing, experiment.data)
            classifier = _load(folder) if is_trained else _train(experiment)
            dataset = _test_images(experiment.data)
            for each in missing:
                known[each] = measure(each, classifier, dataset, experiment.data)
            partial = file.with_name("partial_measures.json")
            partial.write_text(json.dumps(known, indent=2) + "\n")
            os.replace(partial, file)
        if not set(measures).isdisjoint(BY_EPOCH):
            known |= _by_epoch(folder / "log.csv")
        return {each: known[each] for each in measures}


def _read(file):
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is damaged ({error}); remove it.") from error


def _by_epoch(file):
    """The training curves in a run's log."""
    with file.open() as log:
        rows = list(csv.DictReader(log))
    return {
        "training_loss": [float(row["loss"]) for row in rows],
        "test_loss": [float(row["val_loss"]) for row in rows],
        "test_top1": [100 * float(row["val_accuracy"]) for row in rows],
    }


def _train(experiment):
    keras.utils.clear_session()  # of the model before
    folder = experiment.run.folder
    return train(experiment, f"recipes.paper, into {folder}")[0]


def _load(folder):
    return keras.models.load_model(folder / "model.keras", compile=False)


@functools.cache
def _test_images(data):
    return load_dataset(data, train=False)
