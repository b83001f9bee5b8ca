"""Check that every class has pixels in the training and test images."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_cbvit.classes import join_names

from ...machine import cores
from .pairs import IGNORED

AT_ONCE = 64  # number of files read between checks


def check_occurrence(dataset, where):
    """Warns about classes without pixels in the training or test images.

    Label files are read, in threads, until all classes have been found: usually a few,
    but all files if a class is missing.

    Args:
        dataset: a `recipes.data.segmentation.pairs.Dataset`.
        where: name of the data set, for messages.

    Raises:
        ValueError: if fewer than two classes occur in the training images, or none in
            the test images, or a label is invalid.
    """
    for pairs, split, least in (
        (dataset.train, "training", min(2, len(dataset.class_names))),
        (dataset.test, "test", 1),
    ):
        labels = find_labels(pairs)
        classes = pairs.table[labels]
        missing = np.setdiff1d(np.arange(len(dataset.class_names)), classes)
        if not missing.size:
            continue
        label_of = {int(pairs.table[label]): label for label in range(256)}
        names = [f"{dataset.class_names[i]} (label {label_of[i]})" for i in missing]
        found = [
            f"{label} (ignored)" if number == IGNORED else str(label)
            for label, number in zip(labels, classes, strict=True)
        ]
        message = (
            f"{where}: none of the {len(pairs)} {split} images has pixels of "
            f"{join_names(names)}; the labels found are {join_names(found, 20)}."
        )
        if len(dataset.class_names) - len(missing) < least:
            raise ValueError(f"{message} Set --class-names and --ignored-label.")
        if pairs is dataset.test:
            message += " The mean IoU omits classes that are not predicted either."
        warnings.warn(message, stacklevel=2)


def find_labels(pairs):
    """Returns the labels in files, ascending, reading until all classes are found.

    Args:
        pairs: a `recipes.data.segmentation.pairs.Pairs`.
    """
    found = np.zeros(256, bool)
    # In random order, since neighboring files may show the same scene.
    order = np.random.default_rng(0).permutation(len(pairs))
    with ThreadPoolExecutor(cores()) as pool:
        for first in range(0, len(order), AT_ONCE):
            some = order[first : first + AT_ONCE]
            for counts in pool.map(pairs.label_counts, some):
                found |= counts > 0
            if found[pairs.table < pairs.classes].all():
                break
    return np.flatnonzero(found)
