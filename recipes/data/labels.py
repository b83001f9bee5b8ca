"""Reading, validating and comparing labels and class names.

All data sources and evaluations use these functions. Names are compared in the
normalized form of `keras_cbvit.classes`.
"""

import codecs
import warnings
from pathlib import Path

import numpy as np

from keras_cbvit.classes import check_names, join_names, normalize_name

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # Before UTF-16, since its mark begins with UTF-16's.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path):
    """Reads a text file in UTF-8, or in the encoding of its byte order mark.

    Raises:
        ValueError: if the file has another encoding; the message names the first
            affected line.
    """
    content = Path(path).read_bytes()
    encoding = next((e for bom, e in _BOMS if content.startswith(bom)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = "is not UTF-8"
        if encoding != "utf-8":
            found = f"has the byte order mark of {encoding[:6].upper()}, but is not"
        raise ValueError(f"{path} {found} (line {line}); save it as UTF-8.") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(
            f"{path} contains a zero byte (line {line}), as in UTF-16 without a byte "
            "order mark; save it as UTF-8."
        )
    return text


def read_names(path):
    """Reads names from a text file, one per line, ignoring empty lines at the end.

    Raises:
        ValueError: if the file is not text, or another line is empty.
    """
    names = [normalize_name(line) for line in read_text(path).splitlines()]
    while names and not names[-1]:
        names.pop()
    if "" in names:
        raise ValueError(
            f"{path} has no name in line {names.index('') + 1}; every line must have "
            "one."
        )
    return names


def folders_by_name(folder, found):
    """Returns a dict from class name to class folder, sorted by name.

    Args:
        folder: parent folder, for messages.
        found: names of the class folders in the file system.

    Raises:
        ValueError: if two folders have the same class name, or a name is not Unicode.
    """
    names = check_names(found, what=f"{folder}: the list of class folders")
    return dict(sorted(zip(names, found, strict=True)))


def class_indices(found, known, found_where, known_where):
    """Returns the class index of each name, int64.

    Args:
        found: names, which may repeat.
        known: names of all classes, in order.
        found_where: start of a message about the found names, ending in "has".
        known_where: start of a message about the known names, ending in "has".

    Raises:
        ValueError: if names are unknown; the message lists them.
    """
    numbers = {name: number for number, name in enumerate(known)}
    if unknown := sorted(set(found) - numbers.keys()):
        raise ValueError(
            f"{found_where} {join_names(unknown)}, but {known_where} only "
            f"{join_names(known)}."
        )
    return np.array([numbers[name] for name in found], "int64")


def numbers_or_names(labels, what):
    """Converts an array of labels to int64 numbers or to a list of names.

    Args:
        labels: an array of shape `(images,)` or `(images, 1)`, of whole numbers or
            text.
        what: file and name of the array, for messages.

    Raises:
        ValueError: if the array contains anything else.
    """
    if labels.ndim != 1 and labels.shape[1:] != (1,):
        rows = labels.ndim == 2
        hint = " Convert one-hot rows with .argmax(axis=1)." if rows else ""
        raise ValueError(
            f"{what} has shape {labels.shape}; labels must be one number or name per "
            f"image, of shape (images,).{hint}"
        )
    labels = labels.ravel()
    if labels.dtype.kind in "US":
        names = [normalize_name(name) for name in _texts(labels, what)]
        if "" in names:
            raise ValueError(f"{what} has no name for image {names.index('')}.")
        return names
    if labels.dtype.kind == "f":
        is_whole = np.isfinite(labels) & (labels == np.floor(labels))
        if not is_whole.all():
            first = int(is_whole.argmin())
            raise ValueError(
                f"{what} has the label {labels[first]:g} for image {first}; labels "
                "must be whole numbers from 0, or names."
            )
    elif labels.dtype.kind not in "iu":
        raise ValueError(
            f"{what} has dtype {labels.dtype}; labels must be whole numbers from 0 "
            "(.astype('int64')), or names (.astype(str))."
        )
    # uint64 and float64 may exceed int64's range.
    if labels.size and int(labels.max()) > np.iinfo("int64").max:
        raise ValueError(
            f"{what} has the label {labels.max():g}, which is too large for a class."
        )
    return labels.astype("int64")


def _texts(array, what):
    """Converts an array of text or UTF-8 bytes to a list of strings."""
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{what} contains bytes that are not UTF-8 ({error.object!r:.80}); "
                "save text (.astype(str))."
            ) from error
    return array.tolist()


def class_names_of(array, what):
    """Reads class names from an array, in order.

    Raises:
        ValueError: if the array does not contain text, or a name repeats.
    """
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise ValueError(
            f"{what} has dtype {array.dtype} and shape {array.shape}, but must contain "
            "one name per class; create it with numpy.array([...], dtype=str)."
        )
    return check_names(_texts(array, what), what=what)


def check_numbers(labels, classes, what):
    """Raises a ValueError if labels are not valid class indices.

    Args:
        labels: int64 array of shape `(images,)`.
        classes: number of classes.
        what: name of the labels, for messages.
    """
    if not labels.size:
        return
    first, last = int(labels.min()), int(labels.max())
    if first >= 0 and last < classes:
        return
    hint = ""
    if first == 1 and last == classes:
        hint = " The labels start at 1: subtract 1."
    raise ValueError(
        f"{what} has labels from {first} to {last}, but the {classes} classes are "
        f"numbered from 0 to {classes - 1}.{hint}"
    )


def check_occurrence(train, test, names, where):
    """Warns about classes without training or test images.

    Args:
        train: labels of the training images, int64 of shape `(images,)`.
        test: labels of the test images.
        names: names of all classes.
        where: name of the data set, for messages.

    Raises:
        ValueError: if the training images belong to fewer than two classes.
    """
    for labels, split in ((train, "training"), (test, "test")):
        check_numbers(labels, len(names), f"{where}: the array of {split} labels")
        counts = np.bincount(labels, minlength=len(names))
        if split == "training" and np.count_nonzero(counts) < 2:
            found = join_names(select(names, counts > 0)) or "no class"
            raise ValueError(
                f"{where} has training images of {found} only; training requires "
                "images of at least two classes."
            )
        warn_of_missing(counts, names, split, where)


def warn_of_missing(counts, names, split, where):
    """Warns about classes without images in a split."""
    if missing := select(names, counts == 0):
        warnings.warn(
            f"{where} has no {split} images for {len(missing)} of its {len(names)} "
            f"classes: {join_names(missing)}.",
            stacklevel=4,
        )


def select(names, wanted):
    """Selects names by a boolean array."""
    return [name for name, is_wanted in zip(names, wanted, strict=True) if is_wanted]
