"""Matches the classes of models and test sets by name."""

import dataclasses
import warnings

import keras
import numpy as np

from keras_cbvit.classes import join_names
from keras_cbvit.models.logits import gives_logits
from keras_cbvit.pretrained import imagenet

from ..data.labels import class_indices, select
from .classifiers import Classifier
from .metrics import Among
from .sets import protocol


def match_classes(classifier, on, dataset):
    """Matches the classes of a classifier and a test set.

    Args:
        classifier: a `recipes.evaluation.classifiers.Classifier`. If it has no class
            names, it must have as many classes as the set. It is then assumed to have
            the set's classes in the same order, with a warning.
        on: name of the set; `None` for a set without a protocol.
        dataset: the `recipes.data.sources.Dataset`. A warning lists the model's classes
            without a test image.

    Returns:
        The test images with labels in the model's order, the model, the names of its
        classes, and the description of the set.

    Raises:
        ValueError: if the set has classes that the model lacks.
    """
    found, split, description = dataset.class_names, dataset.test, dataset.description
    set_protocol = protocol(on)[0] if on is not None else None
    of_set = found if set_protocol is None else imagenet.synsets()
    names = _names(classifier, of_set, description)
    index = class_indices(
        found, names, f"{description} has the classes", f"{classifier.name} has"
    )
    if split.labels.ndim == 1:
        labels = index[split.labels]
        counts = np.bincount(labels, minlength=len(names))
    else:
        labels = np.zeros((len(split), len(names)), bool)
        labels[:, index] = split.labels
        counts = labels.sum(axis=0)
    model = classifier.model
    if set_protocol == "imagenet-a":
        # Hendrycks et al. predict only among the classes that occur in the set.
        classes, labels = np.unique(labels, return_inverse=True)
        among = Among(classes, gives_logits(model))
        model = keras.Model(model.inputs, among(model.outputs[0]))
        names = tuple(names[number] for number in classes)
        description += f", among its {len(classes)} classes"
    elif missing := select(names, counts == 0):
        warnings.warn(
            f"{description} has no image of {len(missing)} of the {len(names)} classes "
            f"of {classifier.name}: {join_names(missing)}.",
            stacklevel=2,
        )
    return dataclasses.replace(split, labels=labels), model, names, description


def match_pairs(name, model, pairs, class_names):
    """Matches the labels of images to the classes of a segmentation model.

    Args:
        name: name of the model in messages.
        model: segmentation model. If it has no class names, it must have as many
            classes as the labels, and is assumed to have the same ones, with a warning.
        pairs: a `recipes.data.segmentation.pairs.Pairs`.
        class_names: class names of the labels, in order.

    Returns:
        The pairs with renumbered labels, and the model's class names.

    Raises:
        ValueError: if the labels have classes that the model lacks.
    """
    network = Classifier(name, model, getattr(model, "class_names", None))
    names = _names(network, class_names, "The data set")
    index = class_indices(
        class_names, names, "The labels have the classes", f"{name} has"
    )
    return pairs.renumber(index, len(names)), names


def _names(classifier, of_set, description):
    """Returns a classifier's class names in the naming scheme of a set."""
    names = classifier.class_names
    if names is not None and imagenet.are_synsets(of_set):
        names = imagenet.in_synsets(names)
    if names is None:
        why = "has no class names"
        names = of_set
    elif (
        imagenet.are_synsets(of_set)
        and len(names) == len(imagenet.synsets())
        and not imagenet.are_synsets(names[:1])
    ):
        why = "does not name its 1000 classes by ImageNet's synsets"
        names = imagenet.synsets()
    else:
        return names
    if len(names) != classifier.classes:
        raise ValueError(
            f"{classifier.name} {why}; {description} has {len(names)} classes, but "
            f"{classifier.name} has {classifier.classes}."
        )
    warnings.warn(
        f"{classifier.name} {why}; assuming {join_names(names)}, in this order.",
        stacklevel=3,
    )
    return names
