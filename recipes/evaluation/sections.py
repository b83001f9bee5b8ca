"""Sections of reports on training runs and evaluated models."""

import heapq
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_cbvit.pretrained import imagenet

from ..figures import COLORS, new_figure, palette
from ..training.logs import curves_of, draw_curve, read_log
from .metrics import BINS, log_probabilities, negative_log_likelihood, reliability
from .pixels import measures as pixel_measures
from .report_page import (
    Cell,
    Example,
    Figures,
    Gallery,
    Numbers,
    Result,
    Table,
    page,
    svg,
    thumbnail,
)

GRID = 20  # maximum number of classes of a confusion matrix shown in full
PAIRS = 20  # most confused pairs of classes shown instead of a larger one
WRONG = 24  # images shown for a classifier
WORST = 6  # images shown for a segmentation model


def curves(epochs):
    """Returns a section with the curves of a run's log, as a list; `[]` if empty."""
    figures = []
    for name in curves_of(epochs) if epochs else []:
        figure = new_figure(4.5, 3.2)
        draw_curve(figure.subplots(), epochs, name)
        figures.append(svg(figure))
    return [Figures("Curves", figures)] if figures else []


def page_of_models(names, results):
    """Returns the HTML of a report on models, with the training curves of runs.

    Args:
        names: names of the models.
        results: list of `recipes.evaluation.report_page.Result`, by model or set.
    """
    logs = {name: read_log(Path(name) / "log.jsonl") for name in names}
    of_runs = [
        Result(f"Training of {name}", curves(log)) for name, log in logs.items() if log
    ]
    facts = {"backend": f"{keras.backend.backend()}, Keras {keras.__version__}"}
    return page(", ".join(names), facts, [*results, *of_runs])


def classification(found, predictions, split, class_names):
    """Returns the sections on a classifier.

    Args:
        found: result of `recipes.evaluation.metrics.measures`.
        predictions: `recipes.evaluation.measuring.Predictions` of the result.
        split: `recipes.data.images.Split` that was predicted.
        class_names: class names in the order of the predictions.
    """
    names = _readable(class_names)
    logs = ops.convert_to_numpy(
        log_probabilities(predictions.values, predictions.logits)
    )
    # The first class wins ties, as in `measures`.
    predicted = predictions.values.argmax(axis=1)
    hits = np.take_along_axis(predictions.right, predicted[:, None], axis=1)[:, 0]
    confidences = np.exp(logs.max(axis=1).astype("float64"))
    sections: list = [_numbers(found, "images", "right", "top1", "top5", "loss", "ece")]
    if (predictions.right.sum(axis=1) == 1).all():
        truth = predictions.right.argmax(axis=1)
        counts = np.bincount(truth * len(names) + predicted, minlength=len(names) ** 2)
        sections.append(confusion(counts.reshape(len(names), -1), names))
    wrong = np.flatnonzero(~hits)
    sections.append(
        _most_wrong(wrong, confidences, predicted, predictions, split, names)
    )
    sections.append(_calibration(confidences, hits, found["ece"]))
    return sections


def confusion(counts, names):
    """Returns a table of a confusion matrix, or of its most confused pairs if large.

    Args:
        counts: int array of shape `(classes, classes)`, the number of images of each
            true class (row) predicted as each class (column).
        names: class names.
    """
    counts, totals = np.asarray(counts), np.maximum(np.sum(counts, axis=1), 1)
    if len(names) <= GRID:
        shares = counts / totals[:, None]
        rows = [
            [name, *map(Cell, row.tolist(), of_row.tolist())]
            for name, row, of_row in zip(names, counts, shares, strict=True)
        ]
        note = "One row per true class, one column per predicted class."
        columns = ["true / predicted", *names]
        return Table("Confusion matrix", columns, rows, note, upright=True)
    others = counts * ~np.eye(len(names), dtype=bool)
    order = np.argsort(-others, axis=None, kind="stable")[:PAIRS]
    rows = [
        [names[i], names[j], int(others[i, j]), Cell(f"{others[i, j] / totals[i]:.1%}")]
        for i, j in zip(*np.unravel_index(order, others.shape), strict=True)
        if others[i, j]
    ]
    note = f"The most frequent errors among {len(names):,} classes."
    columns = ["true", "predicted", "images", "share of the true class"]
    return Table("Most confused classes", columns, rows, note)


def _most_wrong(wrong, confidences, predicted, predictions, split, names):
    """Returns a gallery of the misclassified images with the largest loss."""
    right = predictions.right[wrong]
    losses = negative_log_likelihood(
        predictions.values[wrong], right, predictions.logits
    )
    order = np.argsort(-ops.convert_to_numpy(losses), kind="stable")[:WRONG]
    examples = []
    for row, truth in zip(wrong[order], right[order], strict=True):
        index = int(predictions.indices[row])
        lines = [
            f"true: {' or '.join(names[i] for i in np.flatnonzero(truth)[:3])}",
            f"predicted: {names[predicted[row]]}, {confidences[row]:.0%}",
        ]
        image = thumbnail(np.asarray(split.images[index]))
        examples.append(Example([image], lines, split.name(index)))
    note = f"{len(wrong):,} of {len(predicted):,} images are misclassified. "
    note += "Those with the largest loss come first." if len(wrong) else ""
    return Gallery("Most wrong images", examples, note)


def _calibration(confidences, hits, ece):
    """Returns a reliability diagram."""
    images, mean, accuracy = reliability(confidences, hits)
    figure = new_figure(4.5, 4.5)
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0, 1, BINS + 1)
    bars = {"width": 1 / BINS, "align": "edge", "edgecolor": "gray", "linewidth": 0.5}
    above.bar(edges[:-1], np.nan_to_num(accuracy), color=COLORS[5], **bars)
    above.plot([0, 1], [0, 1], "--", color="gray")
    above.plot(mean, accuracy, "o", color=COLORS[1], markersize=4)
    above.set_ylabel("accuracy")
    below.bar(edges[:-1], images, color=COLORS[2], **bars)
    below.set_ylabel("images")
    below.set_xlabel("confidence")
    note = (
        f"Expected calibration error {ece:.4f}. Each dot shows the mean confidence and "
        "the accuracy of a bin. Below the line, the model is overconfident."
    )
    return Figures("Calibration", [svg(figure)], note)


def multi_label(found, class_names):
    """Returns the sections on a multi-label classifier.

    Args:
        found: result of `recipes.evaluation.multi_label.measures`.
        class_names: names of all classes, in order.
    """
    precisions = zip(class_names, found["average_precision"], strict=True)
    ordered = sorted(precisions, key=lambda row: (row[1] is None, row[1]))
    rows = [[name, _percent(value)] for name, value in ordered]
    note = (
        "Sorted, the lowest first. A class without a value occurs in none or all of "
        "the images."
    )
    columns = "threshold", "precision", "recall", "f1"
    thresholds = [
        [row["threshold"], *(_percent(row[name]) for name in columns[1:])]
        for row in found["thresholds"]
    ]
    titles = ["threshold", "precision %", "recall %", "F1 %"]
    return [
        _numbers(found, "images", "mean_average_precision", "f1"),
        Table("Average precision of each class", ["class", "AP %"], rows, note),
        Table("Thresholds", titles, thresholds, "Summed over all classes and images."),
    ]


class Worst:
    """Keeps the images with the lowest mean IoU during an evaluation.

    The mean IoU of an image is over the classes in its labels or its prediction.
    """

    def __init__(self):
        self.heap = []

    def add(self, index, labels, prediction, confusion):
        """Adds an image: its index, classes, predicted classes and confusion matrix."""
        if confusion.any():
            iou = pixel_measures(confusion)["mean_iou"]
            # The index breaks ties, since arrays cannot be compared.
            heapq.heappush(self.heap, (-iou, -index, labels, prediction))
            if len(self.heap) > WORST:
                heapq.heappop(self.heap)

    def rows(self):
        """Returns mean IoU, index, labels and prediction of each, worst first."""
        ordered = sorted(self.heap, key=lambda row: row[:2], reverse=True)
        return [(-iou, -index, *maps) for iou, index, *maps in ordered]


def segmentation(found, worst, pairs, class_names):
    """Returns the sections on a segmentation model.

    Args:
        found: result of `recipes.evaluation.pixels.measure`.
        worst: `Worst` images of the evaluation.
        pairs: `recipes.data.segmentation.pairs.Pairs` that were predicted.
        class_names: names of all classes, in order.
    """
    colors = np.full((256, 3), 255, "uint8")
    colors[: len(class_names)] = palette(len(class_names))
    rows = [
        [Cell(name, color="#{:02x}{:02x}{:02x}".format(*color)), _percent(iou)]
        for name, color, iou in zip(
            class_names, colors, found["class_iou"], strict=False
        )
    ]
    examples = []
    for iou, index, labels, prediction in worst.rows():
        image, _ = pairs[index]
        maps = [thumbnail(colors[each], 220, "png") for each in (labels, prediction)]
        name = pairs.image_name(pairs.indices[index])
        lines = [f"mean IoU {100 * iou:.2f} %"]
        examples.append(Example([thumbnail(image, 220), *maps], lines, name))
    note = (
        "Image, labels and prediction, sorted by the mean IoU of the image, the lowest "
        "first. White pixels are ignored. The table above shows the colors."
    )
    return [
        _numbers(found, "images", "mean_iou", "pixel_accuracy"),
        Table("IoU of each class", ["class", "IoU %"], rows),
        Gallery("Worst images", examples, note),
    ]


_TITLES = {
    "images": "images",
    "right": "right",
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "loss": "loss",
    "ece": "ECE",
    "mean_average_precision": "mean average precision",
    "f1": "F1 at 0.5",
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
}


def _numbers(found, *names):
    return Numbers({_TITLES[name]: found[name] for name in names})


def _percent(share):
    """Returns a share of 0-1 as a tinted cell in percent."""
    return Cell(None if share is None else 100 * share, share)


def _readable(names):
    """Returns class names with ImageNet's synsets replaced by words."""
    words = dict(zip(imagenet.synsets(), imagenet.words(), strict=True))
    return [words.get(name, name) for name in names]
