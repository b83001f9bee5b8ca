"""The training runs behind the tables: each model, size and seed once."""

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
from recipes.paper.measures import measure
from recipes.paper.models import MODELS
from recipes.train import as_run, train
from recipes.training import run_folder


class Recipe(NamedTuple):
    """How models are trained on a data set."""

    config: str
    """For ViT-Ti, S and B."""
    small: str | None
    """For the size "small", of two CPU cores."""
    classes: int


RECIPES = {
    "imagenet": Recipe("imagenet", None, 1000),
    "cifar10": Recipe("cifar10", "cifar10_small", 10),
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
            size: `"small"`, `"ti"`, `"s"` or `"b"`.
            seed: of weights, order and augmentation.
        """
        recipe = RECIPES[self.dataset]
        config = recipe.small if size == "small" else recipe.config
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
        """How a model was trained: the settings, backend and versions of its run."""
        experiment = as_run(self.experiment(name, size, seed))
        config = json.loads((experiment.run.folder / "config.json").read_text())
        groups = ("data", "augmentation", "training")
        return {
            **{group: config["experiment"][group] for group in groups},
            "smoke": experiment.run.smoke,
            **{key: config[key] for key in ("backend", "versions", "commit")},
        }

    def values(self, name, size, seed, measures):
        """What was measured of a model, by measure; trains it if it is not yet."""
        experiment = self.experiment(name, size, seed)
        folder = experiment.run.folder
        is_trained = (folder / "model.keras").exists()
        if is_trained:
            run_folder.claim(as_run(experiment), "")  # refuses that of other settings
        file = folder / "measures.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        missing = [each for each in measures if each not in known]
        if missing:
            classifier = _load(folder) if is_trained else _train(experiment)
            dataset = _test_images(experiment.data)
            for each in missing:
                known[each] = measure(each, classifier, dataset, experiment.data)
            partial = file.with_name("partial_measures.json")
            partial.write_text(json.dumps(known, indent=2) + "\n")
            os.replace(partial, file)
        return {each: known[each] for each in measures}


def _train(experiment):
    keras.utils.clear_session()  # of the model before
    folder = experiment.run.folder
    return train(experiment, f"recipes.paper, into {folder}")[0]


def _load(folder):
    return keras.models.load_model(folder / "model.keras", compile=False)


@functools.cache
def _test_images(data):
    return load_dataset(data, train=False)
