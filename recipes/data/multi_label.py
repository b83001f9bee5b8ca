"""Images of which several classes may be right, from CSV files."""

import csv
import io
from pathlib import Path

import numpy as np

from keras_cbvit.classes import check_names, normalized

from .folders import MissingDatasetError
from .labels import places, read_text
from .pictures import Pictures
from .sources import Dataset

IMAGE, LABELS, SPLIT = "image", "labels", "split"


def load_multi_label(data, train=True, originals=False):
    """The data set that a `recipes.options.multi_label.Data` names.

    The classes are those of the training images' labels, sorted, or the columns.

    Args:
        data: the `Data`.
        train: whether to load the training images, too.
        originals: whether the training images stay of their own sizes.

    Raises:
        MissingDatasetError: if it is not there.
        ValueError: if it is there but makes no sense, with the file and the line.
    """
    path = Path(data.dataset).expanduser()
    if not path.exists() and data.data_dir is not None:
        path = Path(data.data_dir) / data.dataset
    rows = _rows_by_split(path, data)
    names = _class_names(rows.get(data.train_split) or rows[data.test_split])
    splits = {}
    for split in {data.train_split, data.test_split} if train else {data.test_split}:
        found = rows[split]
        paths = [str(image) for image, _ in found]
        labels = np.zeros((len(found), len(names)), bool)
        for row, (_, classes) in zip(labels, found, strict=True):
            row[places(classes, names, f"{path} has", "the training images have")] = (
                True
            )
        kept = originals and split == data.train_split
        images = Pictures(paths, data, paths.__getitem__, kept)
        splits[split] = images.split(labels)
    return Dataset(
        splits.get(data.train_split), splits[data.test_split], names, path.name
    )


def _rows_by_split(path, data):
    """For each split the images with the names of their classes."""
    splits = data.train_split, data.test_split
    files = {split: path / f"{split}.csv" for split in splits}
    if path.is_dir() and files[data.test_split].is_file():
        return {
            split: _read(file, data)[0]
            for split, file in files.items()
            if file.is_file()
        }
    file = path / "labels.csv" if path.is_dir() else path
    if not file.is_file():
        raise MissingDatasetError(
            f"There is no file {file}; it should be a CSV file with the columns "
            f"{IMAGE} and {LABELS}, or a folder with one for each split."
        )
    rows, of = _read(file, data)
    if of is None:
        order = np.random.default_rng(0).permutation(len(rows))
        tested = set(order[: len(rows) // 5].tolist())
        of = [splits[number in tested] for number in range(len(rows))]
    found = {
        split: [row for row, its in zip(rows, of, strict=True) if its == split]
        for split in splits
    }
    for split, its in found.items():
        if not its:
            known = ", ".join(sorted(set(of)))
            raise ValueError(
                f"{file} has no image of the split {split!r}, but {known}."
            )
    return found


def _read(file, data):
    """Images and their classes in a file, and the split of each, if it says so."""
    reader = csv.DictReader(io.StringIO(read_text(file)), strict=True)
    columns = reader.fieldnames or []
    if IMAGE not in columns or len(columns) < 2:
        raise ValueError(
            f"{file} has the columns {', '.join(columns)}; it needs {IMAGE} and "
            f"{LABELS}, or {IMAGE} and a column for each class."
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
                raise ValueError(f"{where}: there is no image {image}.")
            if LABELS in columns:
                found = [normalized(n) for n in row[LABELS].split(data.separator)]
                found = [name for name in found if name]
            else:
                found = [n for n in classes if _is_one(row[n], f"{where}, {n}")]
            rows.append((image, found))
            splits.append(row.get(SPLIT))
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: {error}.") from error
    return rows, splits if SPLIT in columns else None


def _is_one(value, where):
    if value.strip() not in ("0", "1"):
        raise ValueError(f"{where} is {value!r:.40}; it must be 0 or 1.")
    return value.strip() == "1"


def _class_names(rows):
    names = sorted({name for _, classes in rows for name in classes})
    if len(names) < 2:
        raise ValueError(
            f"The training images have {len(names)} classes; there must be two."
        )
    return check_names(names)
