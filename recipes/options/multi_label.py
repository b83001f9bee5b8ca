"""The options of training multi-label classifiers."""

import dataclasses

from .. import experiment
from ..experiment import Share
from . import classification
from .classification import Augmentation

__all__ = ["Augmentation", "Data", "Training"]


@dataclasses.dataclass(frozen=True)
class Data(experiment.Data):
    """The images and labels, and their preprocessing."""

    dataset: str = "labels.csv"
    """A CSV file, or a folder with SPLIT.csv files or labels.csv. Image paths are in
    the column image, relative to the file; label names are in the column labels, or
    each class has a column of 0 and 1. The optional column split assigns rows to
    splits; without it, one in five images is in the split test and the rest are in
    train. The split . selects all rows of a file."""
    separator: str = "|"
    """Separator of the names in the column labels."""
    crop_fraction: float = 1.0
    """Fraction of each side that the center crop of test images keeps, 0 to 1."""
    strict: bool = False
    """Whether to stop at an image that cannot be decoded; otherwise the image is
    skipped with a warning and counted."""


@dataclasses.dataclass(frozen=True)
class Training(classification.Training):
    """The optimizer, AdamW, and its schedule: linear warmup, then cosine decay."""

    label_smoothing: Share = 0.0
    """Label smoothing, 0 to 1."""
