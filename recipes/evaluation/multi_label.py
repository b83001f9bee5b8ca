"""Evaluates multi-label classifiers: average precision, and F1 by threshold."""

import keras
import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from keras_cbvit.models.logits import gives_logits

from ..data.batches import Batches
from ..tables import markdown_table
from ..training.hand_over import predict

THRESHOLDS = tuple(round(0.1 * i, 1) for i in range(1, 10))


def measure(model, split, batch_size=256, strict=False):
    """Evaluates a multi-label classifier on images, each exactly once.

    Args:
        model: Keras model that takes images with values 0-255 and returns probabilities
            or logits.
        split: a `recipes.data.images.Split` with labels of shape `(images, classes)`.
        batch_size: number of images per batch.
        strict: whether to raise an error if an image cannot be decoded.

    Returns:
        A dict: `images`; `average_precision` of each class, `None` for a class that all
        or none of the images have; `mean_average_precision` over the other classes,
        `None` without any; `thresholds`, a list of dicts of `threshold` and the
        micro-averaged `precision`, `recall` and `f1`; `f1` at a threshold of 0.5.

    Raises:
        FloatingPointError: if a prediction is NaN or infinite.
    """
    classes = split.labels.shape[1]
    return measure_batches(model, Batches(split, classes, batch_size, strict=strict))


def measure_batches(model, batches, workers=None):
    """Evaluates a multi-label classifier as `measure` does, on batches.

    Args:
        model: see `measure`.
        batches: a `recipes.data.batches.Batches`.
        workers: number of workers of the `recipes.data.feed.Feed`.
    """
    predictions = predict(model, batches, workers)
    if gives_logits(model):
        predictions = keras.ops.convert_to_numpy(keras.ops.sigmoid(predictions))
    counts = np.ones(len(batches.labels), bool)
    counts[list(batches.broken)] = False
    return measures(predictions[counts], batches.labels[counts])


def measures(probabilities, right):
    """Returns the metrics that `measure` describes.

    Args:
        probabilities: array of shape `(images, classes)`.
        right: bool array of the same shape, true for correct classes.
    """
    if not len(right):
        raise ValueError("The data set contains no images to evaluate on.")
    if not np.isfinite(probabilities).all():
        raise FloatingPointError("The model's predictions contain NaN or infinity.")
    precisions = [
        float(average_precision_score(truth, found))
        if truth.any() and not truth.all()
        else None
        for truth, found in zip(right.T, probabilities.T, strict=True)
    ]
    known = [each for each in precisions if each is not None]
    thresholds = []
    for threshold in THRESHOLDS:
        precision, recall, f1, _ = precision_recall_fscore_support(
            right, probabilities >= threshold, average="micro", zero_division=0
        )
        row = {"precision": precision, "recall": recall, "f1": f1}
        row = {name: float(value) for name, value in row.items()}
        thresholds.append({"threshold": threshold, **row})
    return {
        "images": len(right),
        "mean_average_precision": float(np.mean(known)) if known else None,
        "f1": next(row["f1"] for row in thresholds if row["threshold"] == 0.5),
        "average_precision": precisions,
        "thresholds": thresholds,
    }


def sentence(row):
    """Returns a result as a line of text."""
    mean = row["mean_average_precision"]
    shown = "unknown" if mean is None else f"{mean:.4f}"
    return (
        f"{row['model']}: mean average precision {shown}, "
        f"F1 {row['f1']:.4f} at a threshold of 0.5 ({row['on']}, {row['images']} "
        f"images; {row['backend']})"
    )


def tables(rows):
    """Returns Markdown tables of the results by model, class and threshold."""
    cells = [
        (
            *(row["on"], row["model"], row["images"]),
            *(_percent(row["mean_average_precision"]), 100 * row["f1"]),
        )
        for row in rows
    ]
    found = [markdown_table(("on", "model", "images", "mAP %", "F1 %"), cells)]
    for row in rows:
        cells = [
            (name, _percent(each)) for name, each in row["average_precision"].items()
        ]
        found.append(markdown_table((f"{row['model']}, {row['on']}", "AP %"), cells))
        cells = [
            (each["threshold"], *(100 * each[k] for k in ("precision", "recall", "f1")))
            for each in row["thresholds"]
        ]
        titles = "threshold", "precision %", "recall %", "F1 %"
        found.append(markdown_table(titles, cells, [1, 2, 2, 2]))
    return "\n\n".join(found)


def _percent(share):
    return None if share is None else 100 * share
