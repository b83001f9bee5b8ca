"""The training runs behind the tables: each model, size and seed once."""

import dataclasses
import functools
import importlib
import json
import os
from pathlib import Path
from typing import NamedTuple

from keras_cbvit.pretrained.architectures import SIZES
from recipes.experiment import build_model
from recipes.paper.measures import measure
from recipes.paper.models import MODELS


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

    def values(self, name, size, seed, measures):
        """What was measured of a model, by measure; trains it if it is not yet."""
        experiment = self.experiment(name, size, seed)
        file = experiment.run.folder / "measures.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        missing = [each for each in measures if each not in known]
        if missing:
            classifier = _trained(experiment)
            dataset = _test_images(experiment.data)
            for each in missing:
                known[each] = measure(each, classifier, dataset, experiment.data)
            partial = file.with_name("partial_measures.json")
            partial.write_text(json.dumps(known, indent=2) + "\n")
            os.replace(partial, file)
        return {each: known[each] for each in measures}


def _trained(experiment):
    """The classifier of a run, which is trained now unless it was before."""
    import keras

    from recipes.train import as_run, train
    from recipes.training import run_folder

    folder = experiment.run.folder
    command = f"recipes.paper, {folder}"
    if not (folder / "model.keras").exists():
        keras.utils.clear_session()  # of the model before
        return train(experiment, command)[0]
    run_folder.claim(as_run(experiment), command)  # refuses that of other settings
    return keras.models.load_model(folder / "model.keras", compile=False)


@functools.cache
def _test_images(data):
    from recipes.data.sources import load_dataset

    return load_dataset(data, train=False)
