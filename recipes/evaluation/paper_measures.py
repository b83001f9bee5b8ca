"""Measures of trained models and their training, for the tables of the paper."""

import csv
import dataclasses
import functools
import math
import warnings

from keras_cbvit import analysis
from keras_cbvit.classes import check_names

from . import pixels
from .classifiers import Classifier
from .matching import match_classes, match_pairs
from .measuring import measure as measure_classifier
from .sets import data_of, load_set

IMAGES = 512  # test images for the attention statistics

# Column titles of the tables, with units.
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
# Measures with one value per block.
BY_BLOCK = ("entropy", "distance", "scale_ratio", "scale_mean")
# Measures with one value per epoch: column of a run's log.csv, and factor.
BY_EPOCH = {
    "training_loss": ("loss", 1),
    "test_loss": ("val_loss", 1),
    "test_top1": ("val_accuracy", 100),
    "test_mean_iou": ("val_mean_iou", 100),
}
FIRST = {"block": 0, "epoch": 1}  # number of the first one in the tables
ALONG = dict.fromkeys(BY_BLOCK, "block") | dict.fromkeys(BY_EPOCH, "epoch")


def require_sets(measures, data):
    """Loads the ImageNet test sets of some measures, to raise errors early."""
    for each in measures:
        if each in IMAGENET_SETS:
            _load_imagenet_set(IMAGENET_SETS[each], data)


def measure(name, model, dataset, data):
    """Returns a measure of a trained classifier, as a number or a list by block.

    Args:
        name: one of `TITLES`, except those of `measure_pixels` and `by_epoch`.
        model: trained classifier.
        dataset: `recipes.data.sources.Dataset` that the model was tested on.
        data: `recipes.options.classification.Data` of the data set.
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
    split, model, *_ = match_classes(classifier, on, dataset)
    under = CONDITIONS.get(name, "clean")
    return 100 * measure_classifier(model, split, under)["top1"]


@functools.cache
def _load_imagenet_set(on, data):

    own = {"data_dir": data.data_dir, "image_size": data.image_size}
    return load_set(on, dataclasses.replace(data_of(on), **own))


def measure_pixels(model, pairs, experiment):
    """Returns mean IoU, pixel accuracy and class IoU of a segmentation model in %.

    Args:
        model: model of the experiment.
        pairs: test images.
        experiment: `recipes.experiment.Experiment` that trained the model.
    """
    names = check_names(experiment.data.class_names)
    pairs, names = match_pairs("the model", model, pairs, names)
    # The batch size of evaluation during training, which is known to fit into memory.
    batch_size = experiment.training.global_batch_size
    found = pixels.measure(model, pairs, experiment.data.scale, batch_size)
    if few := pixels.describe_omitted(found, names):
        warnings.warn(f"{experiment.data.dataset}: {few}.", stacklevel=2)
    class_iou = [None if iou is None else 100 * iou for iou in found["class_iou"]]
    numbers = {name: 100 * found[name] for name in ("mean_iou", "pixel_accuracy")}
    return {**numbers, "class_iou": class_iou}


def by_epoch(names, file):
    """Returns a dict of training curves, some of `BY_EPOCH`, from a run's log.csv."""
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
    """Returns the number of parameters of any model, without batch norm statistics."""
    weights = model.trainable_weights
    return {"parameters": sum(math.prod(each.shape) for each in weights)}


def cost(model):
    """Returns the parameters, and the multiply-accumulates per image by kind."""

    total = analysis.total_cost(model)
    return {
        "parameters": total.parameters,
        "macs": total.matmul_macs,
        "context_macs": total.context_macs,
    }
