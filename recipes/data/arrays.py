"""Data sets stored as arrays in an .npz file."""

import functools
import math
import zipfile
import zlib

import numpy as np

from .images import Images
from .labels import check_numbers, class_indices, class_names_of, numbers_or_names

SPLITS = ("train", "test")
# Errors that zipfile and NumPy raise for damaged files.
_DAMAGES = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
)


def read_arrays(path, data, originals):
    """Reads the splits, by name, and the class names from an .npz file.

    The file contains `x_train`, `y_train`, `x_test` and `y_test`: uint8 images, and the
    class of each, a whole number from 0 or a name. The optional array `class_names`
    names the classes in order. Without it, the class names are the sorted names in
    `y_train`, or its numbers, which must have no gaps.

    Args:
        path: path of the file.
        data: a `recipes.options.classification.Data`.
        originals: whether to keep the training images as `Images`.

    Raises:
        ValueError: if an array is missing, damaged or invalid; the message names it.
    """
    try:
        arrays = np.load(path)
    except (*_DAMAGES, ValueError) as error:
        raise ValueError(f"{path} is not a readable .npz file ({error}).") from error
    if isinstance(arrays, np.ndarray):
        raise ValueError(f"{path} contains a single array; it must be an .npz file.")
    with arrays:
        needed = [f"{kind}_{split}" for split in SPLITS for kind in "xy"]
        if missing := sorted(set(needed) - set(arrays.files)):
            raise ValueError(
                f"{path} has no {', '.join(missing)}; it must contain "
                f"{', '.join(needed)}."
            )
        found = {
            split: numbers_or_names(
                _read(arrays, f"y_{split}", path), f"{path}: y_{split}"
            )
            for split in SPLITS
        }
        names = None
        if "class_names" in arrays.files:
            names = class_names_of(
                _read(arrays, "class_names", path), f"{path}: class_names"
            )
        names, labels = _classes(path, found, names)
        splits = {
            split: _split(arrays, split, labels[split], path, data, originals)
            for split in SPLITS
        }
    return splits, names


def _read(arrays, name, path):
    try:
        _check_size(arrays, name)
        return arrays[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise ValueError(f"{path}: {name} is damaged ({error}).") from error
        raise ValueError(
            f"{path}: {name} contains Python objects, which are not loaded because "
            "they could run code; save numbers (.astype('int64')) or text "
            "(.astype(str))."
        ) from error
    except _DAMAGES as error:
        raise ValueError(f"{path}: {name} is damaged ({error}).") from error


def _check_size(arrays, name):
    """Raises a ValueError if an array is smaller than its header says."""
    stored = arrays.zip.getinfo(f"{name}.npy").file_size
    with arrays.zip.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            return  # version 3, for Unicode field names, cannot hold images or labels
        shape, _, dtype = read(file)
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > stored:
        raise ValueError(f"its header says {shape}, but it has {stored:,} bytes")


def _split(arrays, split, labels, path, data, originals):
    images = _read(arrays, f"x_{split}", path)
    is_images = images.ndim == 3 or images.shape[3:] in ((1,), (3,), (4,))
    if images.dtype != np.uint8 or not is_images or len(images) != len(labels):
        raise ValueError(
            f"{path}: x_{split} must contain uint8 images of shape (height, width) or "
            f"(height, width, channels), one per label in y_{split}; it has dtype "
            f"{images.dtype} and shape {images.shape}, for {len(labels)} labels."
        )
    name = functools.partial("image {2} of x_{1} in {0}".format, path, split)
    kept_as_is = originals and split == "train"
    return Images(images, data, name, kept_as_is).split(labels)


def _classes(path, found, names):
    """Returns the class names, and the labels of each split as class indices.

    Args:
        path: path of the file.
        found: numbers or names, by split.
        names: class names in the file, or `None`.
    """
    train, test = (isinstance(found[split], list) for split in SPLITS)
    known_where = "class_names has"
    if names is None and train != test:
        kinds = ("names", "numbers") if train else ("numbers", "names")
        raise ValueError(
            f"{path}: y_train contains {kinds[0]}, but y_test contains {kinds[1]}; use "
            "the same kind for both, or add class_names."
        )
    if names is None:
        known_where = "y_train has"
        of_train = found["train"]
        names = (
            tuple(sorted(set(of_train))) if train else _names_of_numbers(path, of_train)
        )
    numbers = {}
    for split, labels in found.items():
        what = f"{path}: y_{split}"
        if isinstance(labels, list):
            labels = class_indices(labels, names, f"{what} has", known_where)
        check_numbers(labels, len(names), what)
        numbers[split] = labels
    return names, numbers


def _names_of_numbers(path, labels):
    """Makes class names from label numbers, which must have no gaps."""
    numbers = np.unique(labels)
    if numbers.size and numbers[0] < 0:
        raise ValueError(
            f"{path}: y_train has the label {numbers[0]}; labels are whole numbers "
            "from 0."
        )
    wrong = np.flatnonzero(numbers != np.arange(len(numbers)))
    if wrong.size:
        number, expected = numbers[wrong[0]], wrong[0]
        raise ValueError(
            f"{path}: y_train has the label {number}, but no label {expected}; without "
            f"class_names, labels of {len(numbers)} classes must range from 0 to "
            f"{len(numbers) - 1}."
        )
    return tuple(str(number) for number in numbers)
