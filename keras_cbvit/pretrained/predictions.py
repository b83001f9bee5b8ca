"""From predictions to names."""

import numpy as np

from keras_cbvit.pretrained.catalog import list_weights, places, read_catalog


def decode_predictions(predictions, weights_or_names, top=5):
    """Names the most probable classes.

    Args:
        predictions: array of shape `(batch, classes)`, as the model gives it.
        weights_or_names: the full name or the tag of published weights, or the
            names of the classes in the order of the predictions.
        top: how many classes to name; at most all of them are.

    Returns:
        For each image a list of `(class name, prediction)`, the largest first.

    Raises:
        ValueError: on unknown weights, or if the number of names is not the number of
            classes predicted.
    """
    predictions = np.asarray(predictions)
    names = weights_or_names
    if isinstance(names, str):
        names = _class_names(names)
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


def _class_names(weights):
    for place in places():
        for name, record in read_catalog(place).items():
            if weights in (name, name.partition(".")[2]) and record.class_names:
                return record.class_names
    known = ", ".join(list_weights()) or "none yet"
    raise ValueError(
        f"weights_or_names={weights!r} is not the name of published weights with "
        f"classes. Known weights: {known}."
    )
