"""The options of training multi-label classifiers."""

import dataclasses

from .. import experiment
from ..experiment import Share
from . import classification
from .classification import Augmentation

__all__ = ["Augmentation", "Data", "Training"]


@dataclasses.dataclass(frozen=True)
class Data(experiment.Data):
    """The images and their labels: where they come from, and how they are fed."""

    dataset: str = "labels.csv"
    """A CSV file of image paths and labels, or a folder with SPLIT.csv, or with
    labels.csv. Paths are relative to the file. A column is called image; the labels
    are in a column called labels, by name, or in a column of 0 and 1 for each class. A
    column called split divides a file; without it one in five images is the split test
    and the others train. A split called . is all of a file."""
    separator: str = "|"
    """Between the names in the column labels."""
    crop_fraction: float = 1.0
    """The centered share of the side that is kept."""
    strict: bool = False
    """Whether an image that cannot be decoded stops the run; otherwise it is left
    out, named and counted."""


@dataclasses.dataclass(frozen=True)
class Training(classification.Training):
    """The optimization: AdamW, linear warm-up, cosine; the loss is of each class."""

    label_smoothing: Share = 0.0
