"""From predictions to names."""

from typing import Any

import keras
import numpy as np

from keras_cbvit.annotations import Tensor
from keras_cbvit.arguments import whole_number
from keras_cbvit.pretrained.sources import known_records


def decode_predictions(
    predictions: Tensor, weights_or_names: Any, top: int = 5
) -> list[list[tuple[str, float]]]:
    """Names the most probable classes.

    Args:
        predictions: array of shape `(batch, classes)`, as the model gives it.
        weights_or_names: a model with `class_names`, the full name or the tag of
            published weights, or the names of the classes in the order of the
            predictions.
        top: how many classes to name; at most all of them are.

    Returns:
        For each image a list of `(class name, prediction)`, the largest first.

    Raises:
        ValueError: on unknown weights or a model without class names, if the number of
            names is not the number of classes predicted, or if `top` is no whole number
            of at least 1.
    """
    top = whole_number("top", top)
    predictions = keras.ops.convert_to_numpy(predictions)
    names = weights_or_names
    if isinstance(names, str | keras.Model):
        names = class_names(names)
    if predictions.ndim != 2 or predictions.shape[1] != len(names):
        raise ValueError(
            f"predictions of shape {predictions.shape} cannot be named with "
            f"{len(names)} class names; they must be of shape (batch, {len(names)})."
        )
    order = np.argsort(-predictions, axis=1, kind="stable")[:, :top]
    return [
        [(names[i], float(row[i])) for i in best]
        for row, best in zip(predictions, order, strict=True)
    ]


def class_names(weights: str | keras.Model) -> list[str]:
    """Names of the classes of published weights, or of a model.

    Args:
        weights: the full name or the tag of published weights, or a model of this
            package.

    Returns:
        A list of names in the order of the predictions; of a segmentation model, in
        the order of the logits of each pixel.

    Raises:
        ValueError: on unknown weights, a tag of weights with different classes, or a
            model that does not know its classes.
    """
    if isinstance(weights, keras.Model):
        own = getattr(weights, "class_names", None)
        if own is None:
            name = weights.name  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError(
                f"The model {name} does not know the names of its classes; set "
                "model.class_names, or give the names."
            )
        return list(own)
    known, found = known_records(), {}
    for name, record in sorted(known.items()):
        if weights in (name, name.partition(".")[2]) and record.class_names:
            found[name] = record.class_names
    if len(set(map(tuple, found.values()))) > 1:
        raise ValueError(
            f"{weights!r} is the tag of weights with different "
            f"classes; give one of the full names {', '.join(found)}."
        )
    if found:
        return next(iter(found.values()))
    known = ", ".join(sorted(known)) or "none yet"
    raise ValueError(
        f"{weights!r} is not the name of published weights with "
        f"classes. Known weights: {known}."
    )
