"""How the models of the paper's entries are trained, by data set."""

from typing import NamedTuple

from keras_cbvit.models.registry import FAMILIES, SIZES, UPERNET

from ..commands import load_config
from ..evaluation.paper_measures import ALONG
from ..tasks import TASKS
from .models import MODELS


class Recipe(NamedTuple):
    """How models are trained on a data set."""

    task: str
    """In `recipes.tasks.TASKS`."""
    config: str
    """In `recipes.configs`, for ViT-Ti, S and B."""
    mini: str | None
    """For the size "mini", of two CPU cores."""
    classes: int


RECIPES = {
    "imagenet": Recipe("classification", "imagenet", None, 1000),
    "cifar10": Recipe("classification", "cifar10", "cifar10_mini", 10),
    "digits": Recipe("classification", "digits", "digits", 10),
    "ade20k": Recipe("segmentation", "ade20k", None, 150),
    "ade20k_40k": Recipe("segmentation", "ade20k_40k", None, 150),
    "camvid": Recipe("segmentation", "camvid", "camvid_mini", 11),
}
"""By the names of the data sets; of each task the paper's is the first."""
PAPER_DATASETS = {"classification": "ImageNet", "segmentation": "ADE20K"}
LENGTHS = {"classification": "epochs", "segmentation": "iterations"}
"""The field of a task's training that says how long it is."""
DROP_PATH_RATES = {"ti": 0.0, "s": 0.05, "b": 0.1}
"""Of segmentation: XCiT's, and for B ours."""


def task_of_dataset(dataset):
    """The task that models are trained for on a data set."""
    return TASKS[RECIPES[dataset].task]


def datasets_of(task):
    """The data sets of a task by its name, the paper's first."""
    return [name for name, recipe in RECIPES.items() if recipe.task == task]


def config_of(dataset, size):
    """The experiment of a recipe for a size."""
    recipe = RECIPES[dataset]
    name = recipe.mini if size == "mini" else recipe.config
    return load_config(name).config()


def network_of(dataset, name, size):
    """What a model is, as changes to the network of a recipe.

    Args:
        dataset: of the recipe.
        name: of `recipes.paper.models.MODELS`.
        size: `"mini"`, `"ti"`, `"s"` or `"b"`.
    """
    if RECIPES[dataset].task == "classification":
        return {"model": None, **SIZES.get(size, {}), **MODELS[name]}
    # UperNet on the ViT of the same model, trained to classify.
    family = FAMILIES[MODELS[name]["broadcast"]]
    trained_on = "cifar10" if size == "mini" else "imagenet"
    own = {"weights": f"{family}_{size}.{trained_on}", **MODELS[name]}
    if size != "mini":  # whose head the config has
        own["model"] = f"{UPERNET}{family}_{size}"
        own["drop_path_rate"] = DROP_PATH_RATES[size]
    return own


def counted_by(measure, result):
    """What the numbers of a measure that has several are of: block, or epoch."""
    along = ALONG[measure]
    if along != "epoch":
        return along
    return task_of_dataset(result["dataset"]).epoch(result["training"])
