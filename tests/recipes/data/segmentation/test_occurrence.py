"""A class without a pixel is named before training, in as few files as it takes."""

import warnings

import numpy as np
import pytest

from recipes.data.segmentation import occurrence
from recipes.data.segmentation.occurrence import check_occurrence, find_labels
from recipes.data.segmentation.pairs import Dataset, Pairs

pytestmark = pytest.mark.any_backend

NAMES = ("sky", "road", "car")


def pairs_of(*labels, ignored_label=11, classes=3):
    """Pictures, each with labels in one row."""
    rows = [np.array([row], "uint8") for row in labels]
    images = [np.zeros((*row.shape, 3), "uint8") for row in rows]
    names = "image {}".format, "labels {}".format
    return Pairs(images, rows, classes, ignored_label, *names)


def check(train, test, names=NAMES):
    check_occurrence(Dataset(train, test, names, "pictures"), "the folder")


ALL = pairs_of([0, 1, 2])


def test_where_all_classes_are_nothing_is_said():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(pairs_of([0, 11], [1, 1], [2, 11]), ALL)
        check(*[pairs_of([1, 0], [2, 3], ignored_label=0)] * 2)
        check(*[pairs_of([0, 0], classes=1)] * 2, ("sky",))


def test_nothing_to_learn_is_an_error():
    """The masks of 0 and 255, of which 255 is ignored."""
    masks = pairs_of([0, 255], [0, 0], ignored_label=255, classes=2)
    message = (
        r"the folder: none of the 2 training images has pixels of object \(label 1\)"
        r"; the labels found are 0, 255 \(ignored\)\. Set --class-names and --ignored-l"
    )
    with pytest.raises(ValueError, match=message):
        check(masks, ALL, ("background", "object"))
    with pytest.raises(ValueError, match=r"pixels of sky \(label 0\), road .*, car"):
        check(pairs_of([11, 11]), ALL)


def test_a_class_that_is_never_learnt_is_named():
    # Labels count from 1 where 0 is ignored; the last class has none.
    train = pairs_of([0, 1], [2, 2], ignored_label=0)
    message = (
        r"none of the 2 training images has pixels of car \(label 3\); the labels "
        r"found are 0 \(ignored\), 1, 2\.$"
    )
    with pytest.warns(UserWarning, match=message):
        check(train, ALL)


def test_a_class_that_is_never_measured_is_named():
    message = r"none of the 1 test images has pixels of road \(label 1\), car \(label"
    with pytest.warns(UserWarning, match=message):
        check(ALL, pairs_of([0, 11]))
    with pytest.raises(ValueError, match=r"test images .* found are 11 \(ignored\)"):
        check(ALL, pairs_of([11]))


def test_no_more_files_are_read_than_it_takes(monkeypatch):
    monkeypatch.setattr(occurrence, "AT_ONCE", 4)
    read = []

    class Counted(Pairs):
        def label_counts(self, index):
            read.append(index)
            return super().label_counts(index)

    def labels_of(rows):
        pairs = pairs_of(*rows)
        pairs.__class__ = Counted
        read.clear()
        return find_labels(pairs).tolist()

    assert labels_of([[0, 1, 2]] * 100) == [0, 1, 2]
    assert len(read) == 4
    assert labels_of([[0, 1]] * 100) == [0, 1]
    assert sorted(read) == list(range(100))


def test_wrong_labels_are_named():
    with pytest.raises(
        ValueError, match="labels 1 has the unknown labels 7; the 3 classes have"
    ):
        find_labels(pairs_of([0, 1], [7, 0]))
