"""Recipes for training the models of the paper's entries, by data set."""

from typing import NamedTuple

from keras_cbvit.models.registry import FAMILIES, SIZES, UPERNET

from ..commands import load_config
from ..evaluation.paper_measures import ALONG
from ..tasks import TASKS
from .models import MODELS


class Recipe(NamedTuple):
    """How to train models on a data set."""

    task: str
    """Name in `recipes.tasks.TASKS`."""
    config: str
    """Name in `recipes.configs`, for ViT-Ti, S and B."""
    mini: str | None
    """Name in `recipes.configs` for the size "mini", for two CPU cores."""
    classes: int


RECIPES = {
    "imagenet": Recipe("classification", "imagenet", None, 1000),
    "cifar10": Recipe("classification", "cifar10", "cifar10_mini", 10),
    "digits": Recipe("classification", "digits", "digits", 10),
    "ade20k": Recipe("segmentation", "ade20k", None, 150),
    "ade20k_40k": Recipe("segmentation", "ade20k_40k", None, 150),
    "camvid": Recipe("segmentation", "camvid", "camvid_mini", 11),
}
"""Recipes by name of the data set; the first of each task is the paper's."""
PAPER_DATASETS = {"classification": "ImageNet", "segmentation": "ADE20K"}
LENGTHS = {"classification": "epochs", "segmentation": "iterations"}
"""The field of a task's training options that gives its length."""
DROP_PATH_RATES = {"ti": 0.0, "s": 0.05, "b": 0.1}
"""Drop path rates for segmentation: XCiT's, and for B the project's choice."""


def task_of_dataset(dataset):
    """Returns the task of a data set."""
    return TASKS[RECIPES[dataset].task]


def datasets_of(task):
    """Returns the data sets of a task, the paper's first."""
    return [name for name, recipe in RECIPES.items() if recipe.task == task]


def config_of(dataset, size):
    """Returns the experiment of a data set's recipe for a size."""
    recipe = RECIPES[dataset]
    name = recipe.mini if size == "mini" else recipe.config
    return load_config(name).config()


def network_of(dataset, name, size):
    """Returns a model as changes to the network of a recipe.

    Args:
        dataset: name of the data set.
        name: a key of `recipes.paper.models.MODELS`.
        size: `"mini"`, `"ti"`, `"s"` or `"b"`.
    """
    if RECIPES[dataset].task == "classification":
        return {"model": None, **SIZES.get(size, {}), **MODELS[name]}
    # UperNet on the same ViT, pretrained for classification.
    family = FAMILIES[MODELS[name]["broadcast"]]
    trained_on = "cifar10" if size == "mini" else "imagenet"
    own = {"weights": f"{family}_{size}.{trained_on}", **MODELS[name]}
    if size != "mini":  # the mini config defines its own head
        own["model"] = f"{UPERNET}{family}_{size}"
        own["drop_path_rate"] = DROP_PATH_RATES[size]
    return own


def axis_label(measure, result):
    """Returns the x-axis of a measure with several values: block or epoch."""
    along = ALONG[measure]
    if along != "epoch":
        return along
    return task_of_dataset(result["dataset"]).epoch(result["training"])
