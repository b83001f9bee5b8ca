"""A classifier and images brought to the same classes."""

import dataclasses

import keras
import numpy as np

from recipes.evaluation.logits import gives_logits
from recipes.evaluation.metrics import Among
from recipes.evaluation.sets import imagenet_classes, protocol


def matched(classifier, on, dataset):
    """Images and model with the same classes, and what they are."""
    found, split = dataset.class_names, dataset.test
    is_imagenet = on is not None and protocol(on)[0] is not None
    names = classifier.class_names
    if names is None:
        # A file does not know the names of its classes.
        names = imagenet_classes() if is_imagenet else found
        if len(names) != classifier.classes:
            raise ValueError(
                f"{dataset.description} has {len(names)} classes, but "
                f"{classifier.name} {classifier.classes}."
            )
    if not set(found) <= set(names):
        raise ValueError(
            f"The {len(found)} classes of {dataset.description} ({_some(found)}) are "
            f"not among the {len(names)} of {classifier.name} ({_some(names)})."
        )
    index = np.array([names.index(name) for name in found])
    if split.labels.ndim == 1:
        labels = index[split.labels]
    else:
        labels = np.zeros((len(split), len(names)), bool)
        labels[:, index] = split.labels
    model, description = classifier.model, dataset.description
    if is_imagenet and protocol(on)[0] == "imagenet-a":
        # Hendrycks et al.: the prediction is the best of the classes that occur.
        classes, labels = np.unique(labels, return_inverse=True)
        among = Among(classes, gives_logits(model))
        model = keras.Model(model.inputs, among(model.outputs[0]))
        description += f", among its {len(classes)} classes"
    return dataclasses.replace(split, labels=labels), model, description


def _some(names):
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
