"""What is measured of a trained model, and of its training."""

import csv
import dataclasses
import functools
import math
import warnings

from keras_cbvit import analysis
from keras_cbvit.classes import check_names

from . import pixels
from .classifiers import Classifier
from .matching import matched, matched_pairs
from .measuring import measure as measure_classifier
from .sets import data_of, load_set

IMAGES = 512  # of the test set, whose attention is measured

# What the columns of the tables are called, and their units.
TITLES = {
    "top1": "top-1, %",
    "occlusion": "top-1, center occluded, %",
    "fgsm": "top-1 under FGSM, ε = 1 of 255, %",
    "imagenet_v2": "top-1 on ImageNet-V2, %",
    "real": "top-1 on ReaL, %",
    "imagenet_a": "top-1 on ImageNet-A, %",
    "entropy": "entropy of attention, nats",
    "distance": "relative distance of attention",
    "scale_ratio": "10 % over 90 % quantile of |λ|",
    "scale_mean": "mean of Λ",
    "training_loss": "training loss",
    "test_loss": "test loss",
    "test_top1": "test top-1, %",
    "mean_iou": "mean IoU, %",
    "pixel_accuracy": "pixel accuracy, %",
    "test_mean_iou": "test mean IoU, %",
}
IMAGENET_SETS = {
    "imagenet_v2": "imagenet-v2",
    "real": "real",
    "imagenet_a": "imagenet-a",
}
CONDITIONS = {"top1": "clean", "occlusion": "occlusion", "fgsm": "fgsm"}
# Lists of numbers, by what a number is of.
BY_BLOCK = ("entropy", "distance", "scale_ratio", "scale_mean")
# With the column of a run's log.csv, and what it is multiplied by.
BY_EPOCH = {
    "training_loss": ("loss", 1),
    "test_loss": ("val_loss", 1),
    "test_top1": ("val_accuracy", 100),
    "test_mean_iou": ("val_mean_iou", 100),
}
FIRST = {"block": 0, "epoch": 1}  # as the models and the logs count them
ALONG = dict.fromkeys(BY_BLOCK, "block") | dict.fromkeys(BY_EPOCH, "epoch")


def require_sets(measures, data):
    """Raises what is to be raised if a test set of some measures is not there."""
    for each in measures:
        if each in IMAGENET_SETS:
            _load_imagenet_set(IMAGENET_SETS[each], data)


def measure(name, model, dataset, data):
    """What is measured of a trained model: a number, or a list of one for each block.

    Args:
        name: one of `TITLES` but those of pixels, for which there is `measure_pixels`,
            and those `BY_EPOCH`, for which there is `by_epoch`.
        model: a trained classifier.
        dataset: the `recipes.data.sources.Dataset` it was tested on.
        data: the `recipes.options.classification.Data` of that.
    """
    if name in ("entropy", "distance"):
        images = dataset.test.first(IMAGES).images
        return analysis.attention_statistics(model, images)[name].tolist()
    if name in ("scale_ratio", "scale_mean"):
        return analysis.scale_statistics(model)[name.removeprefix("scale_")].tolist()
    on = IMAGENET_SETS.get(name)
    if on is not None:
        dataset = _load_imagenet_set(on, data)
    classifier = Classifier("the model", model, getattr(model, "class_names", None))
    split, model, *_ = matched(classifier, on, dataset)
    under = CONDITIONS.get(name, "clean")
    return 100 * measure_classifier(model, split, under)["top1"]


@functools.cache
def _load_imagenet_set(on, data):

    own = {"data_dir": data.data_dir, "image_size": data.image_size}
    return load_set(on, dataclasses.replace(data_of(on), **own))


def measure_pixels(model, pairs, experiment):
    """What is measured of a segmentation model, all at once: numbers, and class IoU.

    Args:
        model: of a `recipes.experiment.Experiment`.
        pairs: the test images.
        experiment: as it is run.
    """
    names = check_names(experiment.data.class_names)
    pairs, names = matched_pairs("the model", model, pairs, names)
    # In the batches of training's evaluation: nothing else has to fit into memory.
    batch_size = experiment.training.global_batch_size
    found = pixels.measure(model, pairs, experiment.data.scale, batch_size)
    if few := pixels.left_out(found, names):
        warnings.warn(f"{experiment.data.dataset}: {few}.", stacklevel=2)
    class_iou = [None if iou is None else 100 * iou for iou in found["class_iou"]]
    numbers = {name: 100 * found[name] for name in ("mean_iou", "pixel_accuracy")}
    return {**numbers, "class_iou": class_iou}


def by_epoch(names, file):
    """Training curves, lists by the names of `BY_EPOCH`, from a run's log.csv."""
    found = {}
    try:
        with file.open() as log:
            rows = list(csv.DictReader(log))
        if not rows:
            raise ValueError("it has no epochs")
        if [int(row["epoch"]) for row in rows] != list(range(len(rows))):
            raise ValueError("it lacks epochs")
        for name in names:
            column, factor = BY_EPOCH[name]
            found[name] = [factor * float(row[column]) for row in rows]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(f"{file} is damaged ({error!s:.200}).") from error
    return found


def parameters(model):
    """Parameters, of any model; not the moving statistics of its batch norms."""
    weights = model.trainable_weights
    return {"parameters": sum(math.prod(each.shape) for each in weights)}


def cost(model):
    """Parameters, and multiply-accumulates for one image, by kind."""

    total = analysis.total_cost(model)
    return {
        "parameters": total.parameters,
        "macs": total.matmul_macs,
        "context_macs": total.context_macs,
    }
