"""Classification and segmentation: all that the paper's entries do differently."""

import abc
import dataclasses
from typing import ClassVar, NamedTuple

from keras_cbvit.models.registry import FAMILIES, SIZES, UPERNET
from keras_cbvit.pretrained.sources import locate
from recipes import segment, train
from recipes.data.segmentation.pairs import load_pairs
from recipes.data.sources import load_dataset
from recipes.network import build_classifier, build_segmenter
from recipes.paper import measures
from recipes.paper.models import MODELS


class Recipe(NamedTuple):
    """How models are trained on a data set."""

    config: str
    """In `recipes.configs`, for ViT-Ti, S and B."""
    mini: str | None
    """For the size "mini", of two CPU cores."""
    classes: int


class Task(abc.ABC):
    """What models are trained for."""

    name: str
    recipes: dict[str, Recipe]
    """By the names of the data sets; the first is the paper's."""
    paper_dataset: str
    """What the paper's numbers were measured on."""
    length: str
    """What the field of `experiment.training` is called that says how long it is."""

    @abc.abstractmethod
    def network(self, name, size):
        """What a model is, as changes to the network of a recipe.

        Args:
            name: of `recipes.paper.models.MODELS`.
            size: `"mini"`, `"ti"`, `"s"` or `"b"`.
        """

    @abc.abstractmethod
    def cost(self, experiment, classes):
        """What the model of an experiment costs, by kind; nothing is trained."""

    @abc.abstractmethod
    def require(self, measures, experiment):
        """Raises what training or measuring a model would raise for want of a file."""

    @abc.abstractmethod
    def as_run(self, experiment):
        """The experiment as it is run: with `smoke`, a short one."""

    @abc.abstractmethod
    def train(self, experiment, command):
        """Trains the model of an experiment and returns it."""

    @abc.abstractmethod
    def load(self, data):
        """The data set with the test images."""

    @abc.abstractmethod
    def measure(self, names, model, dataset, experiment):
        """What is measured of a trained model, by name; of `experiment` as it is run.

        There may be more than was asked for, if it comes with it.
        """

    @abc.abstractmethod
    def trained(self, training, data):
        """Of how much on what a model was trained, in words, from its settings."""

    @abc.abstractmethod
    def epoch(self, training):
        """What an epoch of the log is."""


class Classification(Task):
    name = "classification"
    recipes: ClassVar = {
        "imagenet": Recipe("imagenet", None, 1000),
        "cifar10": Recipe("cifar10", "cifar10_mini", 10),
        "digits": Recipe("digits", "digits", 10),
    }
    paper_dataset = "ImageNet"
    length = "epochs"

    def network(self, name, size):
        return {"model": None, **SIZES.get(size, {}), **MODELS[name]}

    def cost(self, experiment, classes):
        network, data = experiment.network, experiment.data
        return measures.cost(build_classifier(network, data, classes, "float32"))

    def require(self, names, experiment):
        measures.require_sets(names, experiment.data)

    def as_run(self, experiment):
        return train.as_run(experiment)

    def train(self, experiment, command):
        return train.train(experiment, command)[0]

    def load(self, data):
        return load_dataset(data, train=False)

    def measure(self, names, model, dataset, experiment):
        data = experiment.data
        return {each: measures.measure(each, model, dataset, data) for each in names}

    def trained(self, training, data):
        return (
            f"{training['epochs']} epochs in batches of "
            f"{training['global_batch_size']}, images of {data['image_size'][0]} pixels"
        )

    def epoch(self, training):
        return "epoch"


class Segmentation(Task):
    name = "segmentation"
    recipes: ClassVar = {
        "ade20k": Recipe("segmentation.ade20k", None, 150),
        "ade20k_40k": Recipe("segmentation.ade20k_40k", None, 150),
        "camvid": Recipe("segmentation.camvid", "segmentation.camvid_mini", 11),
    }
    paper_dataset = "ADE20K"
    length = "iterations"

    drop_path_rates: ClassVar = {"ti": 0.0, "s": 0.05, "b": 0.1}
    """XCiT's, and for B ours."""

    def network(self, name, size):
        """UperNet on the ViT of the same model, trained to classify."""
        broadcast = MODELS[name]["broadcast"]
        trained_on = "cifar10" if size == "mini" else "imagenet"
        own = {"weights": f"{FAMILIES[broadcast]}_{size}.{trained_on}", **MODELS[name]}
        if size != "mini":  # which the config has
            own["model"] = f"{UPERNET}{FAMILIES[broadcast]}_{size}"
            own["drop_path_rate"] = self.drop_path_rates[size]
        return own

    def cost(self, experiment, classes):
        network, data = experiment.network, experiment.data
        if network.model is not None:
            # Of the paper's sizes, which need no weights to be counted; without them
            # what was measured elsewhere can be printed.
            network = dataclasses.replace(network, weights=None)
        return measures.parameters(build_segmenter(network, data, classes, "float32"))

    def require(self, names, experiment):
        locate(experiment.network.weights)

    def as_run(self, experiment):
        return segment.as_run(experiment)

    def train(self, experiment, command):
        return segment.segment(experiment, command)[0]

    def load(self, data):
        return load_pairs(data)

    def measure(self, names, model, dataset, experiment):
        return measures.measure_pixels(model, dataset.test, experiment)

    def trained(self, training, data):
        crop, scale = ("×".join(map(str, data[key])) for key in ("image_size", "scale"))
        return (
            f"{training['iterations']} iterations in batches of "
            f"{training['global_batch_size']}, crops of {crop} pixels, tested on "
            f"{data['test_split']} at the scale {scale}"
        )

    def epoch(self, training):
        return f"epoch of {training['evaluation_iterations']} iterations"


CLASSIFICATION, SEGMENTATION = Classification(), Segmentation()
TASK_OF = {
    dataset: task for task in (CLASSIFICATION, SEGMENTATION) for dataset in task.recipes
}


def counted_by(measure, result):
    """What the numbers of a measure that has several are of: block, or epoch."""
    along = measures.ALONG[measure]
    if along != "epoch":
        return along
    return TASK_OF[result["dataset"]].epoch(result["training"])
