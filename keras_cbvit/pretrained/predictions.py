"""Names the classes of predictions."""

from typing import Any

import keras
import numpy as np

from keras_cbvit.annotations import Tensor
from keras_cbvit.arguments import whole_number
from keras_cbvit.pretrained.sources import known_records


def decode_predictions(
    predictions: Tensor, weights_or_names: Any, top: int = 5
) -> list[list[tuple[str, float]]]:
    """Returns the most probable classes by name.

    Args:
        predictions: array of shape `(batch, classes)`.
        weights_or_names: a model with `class_names`, the full name or the tag of
            published weights, or the names of the classes in the order of the
            predictions.
        top: number of classes per image, or all if there are fewer.

    Returns:
        For each image, a list of `(class name, prediction)`, the largest first.

    Raises:
        ValueError: if the weights are unknown, the model has no class names, their
            number differs from that of the predictions, or `top` is not a positive
            whole number.
    """
    top = whole_number("top", top)
    predictions = keras.ops.convert_to_numpy(predictions)
    names = weights_or_names
    if isinstance(names, str | keras.Model):
        names = class_names(names)
    if predictions.ndim != 2 or predictions.shape[1] != len(names):
        raise ValueError(
            f"predictions must have shape (batch, {len(names)}) for {len(names)} class "
            f"names, not {predictions.shape}."
        )
    order = np.argsort(-predictions, axis=1, kind="stable")[:, :top]
    return [
        [(names[i], float(row[i])) for i in best]
        for row, best in zip(predictions, order, strict=True)
    ]


def class_names(weights: str | keras.Model) -> list[str]:
    """Returns the class names of published weights or of a model.

    Args:
        weights: the full name or the tag of published weights, or a model of this
            package.

    Returns:
        A list of names in the order of the predictions; for a segmentation model, in
        the order of the logits of each pixel.

    Raises:
        ValueError: if the weights are unknown, weights with this tag have different
            classes, or the model has no class names.
    """
    if isinstance(weights, keras.Model):
        own = getattr(weights, "class_names", None)
        if own is None:
            name = weights.name  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError(
                f"The model {name} has no class names; set model.class_names or pass "
                "the names."
            )
        return list(own)
    known, found = known_records(), {}
    for name, record in sorted(known.items()):
        if weights in (name, name.partition(".")[2]) and record.class_names:
            found[name] = record.class_names
    if len(set(map(tuple, found.values()))) > 1:
        raise ValueError(
            f"{weights!r} is a tag of weights with different classes; use one of the "
            f"full names {', '.join(found)}."
        )
    if found:
        return next(iter(found.values()))
    known = ", ".join(sorted(known)) or "none yet"
    raise ValueError(
        f"{weights!r} is not the name of published weights with class names. Known "
        f"weights: {known}."
    )
