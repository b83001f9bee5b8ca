"""What is measured of a trained model."""

import dataclasses
import functools

IMAGES = 512  # of the test set, whose attention is measured

# What the columns of the tables are called, and their units.
TITLES = {
    "top1": "top-1, %",
    "occlusion": "top-1, centre occluded, %",
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
}
IMAGENET_SETS = {
    "imagenet_v2": "imagenet-v2",
    "real": "real",
    "imagenet_a": "imagenet-a",
}
CONDITIONS = {"top1": "clean", "occlusion": "occlusion", "fgsm": "fgsm"}
# Lists of numbers, by what a number is of.
BY_BLOCK = ("entropy", "distance", "scale_ratio", "scale_mean")
BY_EPOCH = ("training_loss", "test_loss", "test_top1")
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
        name: one of `TITLES` but those `BY_EPOCH`, which the run's log has.
        model: a trained classifier.
        dataset: the `recipes.data.sources.Dataset` it was tested on.
        data: the `recipes.experiment.Data` of that.
    """
    from keras_cbvit import analysis
    from recipes import evaluation

    if name in ("entropy", "distance"):
        images = dataset.test.first(IMAGES).images
        return analysis.attention_statistics(model, images)[name].tolist()
    if name in ("scale_ratio", "scale_mean"):
        return analysis.scale_statistics(model)[name.removeprefix("scale_")].tolist()
    split = dataset.test
    if name in IMAGENET_SETS:
        split, model = _imagenet_set(IMAGENET_SETS[name], model, data)
    under = CONDITIONS.get(name, "clean")
    return 100 * evaluation.measure(model, split, under)["top1"]


def _imagenet_set(on, model, data):
    """Another test set for a model of ImageNet's classes."""
    from recipes.evaluation.classifiers import Classifier
    from recipes.evaluation.matching import matched
    from recipes.evaluation.sets import imagenet_classes

    classifier = Classifier("the model", model, imagenet_classes())
    split, model, _ = matched(classifier, on, _load_imagenet_set(on, data))
    return split, model


@functools.cache
def _load_imagenet_set(on, data):
    from recipes.evaluation.sets import data_of, load_set

    own = {"data_dir": data.data_dir, "image_size": data.image_size}
    return load_set(on, dataclasses.replace(data_of(on), **own))


def cost(model):
    """Parameters, and multiply-accumulates for one image, by kind."""
    from keras_cbvit.analysis import total_cost

    total = total_cost(model)
    return {
        "parameters": total.parameters,
        "macs": total.matmul_macs,
        "context_macs": total.context_macs,
    }
