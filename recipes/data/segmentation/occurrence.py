"""Whether every class has pixels to learn from and to be measured on."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_cbvit.classes import listed

from ...machine import cores
from .pairs import IGNORED

AT_ONCE = 64  # files that are read before looking whether every class was seen


def check_occurrence(dataset, where):
    """Names the classes that no pixel is of, in training or in test images.

    Files of labels are read, in threads, until every class was seen: a few where all
    are there, all of them where one is not.

    Args:
        dataset: a `recipes.data.segmentation.pairs.Dataset`.
        where: what messages call it.

    Raises:
        ValueError: if fewer than two classes occur in training, so that there is
            nothing to learn, or none in test; on labels that are wrong.
    """
    for pairs, split, least in (
        (dataset.train, "training", min(2, len(dataset.class_names))),
        (dataset.test, "test", 1),
    ):
        labels = labels_found(pairs)
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
            f"{where}: none of the {len(pairs)} {split} images has a "
            f"pixel of {listed(names)}; the labels found are {listed(found, 20)}."
        )
        if len(dataset.class_names) - len(missing) < least:
            raise ValueError(f"{message} Set --class-names and --ignored-label.")
        if pairs is dataset.test:
            message += " The mean IoU leaves out those that are not predicted either."
        warnings.warn(message, stacklevel=2)


def labels_found(pairs):
    """The labels in files, ascending; all of them unless every class is there before.

    Args:
        pairs: a `recipes.data.segmentation.pairs.Pairs`.
    """
    found = np.zeros(256, bool)
    # At random, since files of one place may lie together.
    order = np.random.default_rng(0).permutation(len(pairs))
    with ThreadPoolExecutor(cores()) as pool:
        for first in range(0, len(order), AT_ONCE):
            some = order[first : first + AT_ONCE]
            for counts in pool.map(pairs.label_counts, some):
                found |= counts > 0
            if found[pairs.table < pairs.classes].all():
                break
    return np.flatnonzero(found)
