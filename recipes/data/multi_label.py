"""Multi-label data sets from CSV files."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_cbvit.classes import check_names, normalize_name

from .folders import MissingDatasetError
from .images import Images
from .labels import class_indices, read_text, warn_of_missing
from .sources import Dataset

IMAGE, LABELS, SPLIT = "image", "labels", "split"


ALL = "."  # the split of all rows of a file


def load_multi_label(data, train=True, originals=False):
    """Loads the data set of a `recipes.options.multi_label.Data`.

    The classes are the columns, or the sorted label names of the training images (of
    the test images, if only these are loaded). Classes without images cause a warning.

    Args:
        data: the `Data`.
        train: whether to also load the training images.
        originals: whether to keep the training images at their original sizes.

    Raises:
        MissingDatasetError: if the data set does not exist.
        ValueError: if a file is invalid; the message names the file and the line.
    """
    path = Path(data.dataset).expanduser()
    if not path.exists() and data.data_dir is not None:
        path = Path(data.data_dir) / data.dataset
    wanted = [data.train_split, data.test_split] if train else [data.test_split]
    tables = _tables(path, data, wanted)
    images = [{image for image, _ in table.rows} for table in tables.values()]
    if len(images) == 2 and (both := images[0] & images[1]):
        raise ValueError(f"{path} has {min(both)} in both splits; remove it from one.")
    first = tables[wanted[0]]
    names = first.columns or sorted({n for _, found in first.rows for n in found})
    if len(names) < 1 + train:
        raise ValueError(
            f"The labels in {path} have {len(names)} classes, but at least "
            f"{'two' if train else 'one'} must occur."
        )
    names = check_names(names)
    splits = {}
    for split, table in tables.items():
        paths = [str(image) for image, _ in table.rows]
        labels = np.zeros((len(paths), len(names)), bool)
        for row, (_, classes) in zip(labels, table.rows, strict=True):
            index = class_indices(
                classes, names, f"{path} has", "the training images have"
            )
            row[index] = True
        if train:
            warn_of_missing(labels.sum(axis=0), names, split, path)
        kept = originals and split == data.train_split
        images = Images(paths, data, paths.__getitem__, kept)
        splits[split] = images.split(labels)
    training = splits[data.train_split] if train else None
    return Dataset(training, splits[data.test_split], names, path.name)


class _Table(NamedTuple):
    """Rows of a CSV file."""

    rows: list
    """Pairs of image path and list of class names."""
    splits: list | None
    """Split of each row, or `None` without a column of splits."""
    columns: list | None
    """Class names, or `None` without columns of classes."""


def _tables(path, data, wanted):
    """Reads the rows of the requested splits, by split."""
    if path.is_dir() and any((path / f"{split}.csv").is_file() for split in wanted):
        return {split: _read(path / f"{split}.csv", data) for split in wanted}
    file = path / "labels.csv" if path.is_dir() else path
    table = _read(file, data)
    splits = table.splits
    if splits is None:
        order = np.random.default_rng(0).permutation(len(table.rows))
        tested = set(order[: len(order) // 5].tolist())
        splits = ["test" if i in tested else "train" for i in range(len(order))]
    found = {}
    for split in wanted:
        rows = [
            row
            for row, own in zip(table.rows, splits, strict=True)
            if split in (own, ALL)
        ]
        if not rows:
            known = ", ".join(sorted(set(splits))) or "none"
            raise ValueError(
                f"{file} has no images in the split {split!r}; its splits are {known}."
            )
        found[split] = table._replace(rows=rows)
    return found


def _read(file, data):
    """Reads a CSV file as a `_Table`."""
    if not file.is_file():
        raise MissingDatasetError(
            f"The file {file} does not exist. Pass a CSV file with the columns {IMAGE} "
            f"and {LABELS}, or a folder with one CSV file per split."
        )
    reader = csv.DictReader(io.StringIO(read_text(file)), strict=True)
    columns = [normalize_name(column) for column in reader.fieldnames or []]
    reader.fieldnames = columns
    if twice := [each for each in columns if columns.count(each) > 1]:
        raise ValueError(f"{file} has the column {twice[0]} twice.")
    if IMAGE not in columns or len(columns) < 2:
        raise ValueError(
            f"{file} has the columns {', '.join(columns)}; it must have {IMAGE} and "
            f"{LABELS}, or {IMAGE} and one column per class."
        )
    classes = [each for each in columns if each not in (IMAGE, LABELS, SPLIT)]
    rows, splits = [], []
    try:
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{where} does not have {len(columns)} columns.")
            image = file.parent / row[IMAGE]
            if not image.is_file():
                raise ValueError(f"{where}: the image {image} does not exist.")
            if LABELS in columns:
                found = [normalize_name(n) for n in row[LABELS].split(data.separator)]
                found = [name for name in found if name]
            else:
                found = [n for n in classes if _is_one(row[n], f"{where}, {n}")]
            rows.append((image, found))
            splits.append(row.get(SPLIT))
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: {error}.") from error
    return _Table(
        rows,
        splits if SPLIT in columns else None,
        None if LABELS in columns else classes,
    )


def _is_one(value, where):
    if value.strip() not in ("0", "1"):
        raise ValueError(f"{where} is {value!r:.40}; it must be 0 or 1.")
    return value.strip() == "1"
