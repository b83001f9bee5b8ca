"""Labels and the names of classes: read, checked and compared.

Every source of images and every evaluation does it by these functions. Names are
compared in the one form of `keras_cbvit.classes`.
"""

import codecs
import warnings
from pathlib import Path

import numpy as np

from keras_cbvit.classes import check_names, listed, normalized

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # Before UTF-16, whose mark its own begins with.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path):
    """The text in a file: UTF-8, or what its byte order mark says.

    Raises:
        ValueError: if it is in another encoding, with the first line that is.
    """
    content = Path(path).read_bytes()
    encoding = next((e for bom, e in _BOMS if content.startswith(bom)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = "is not UTF-8"
        if encoding != "utf-8":
            found = f"begins as {encoding[:6].upper()}, but is not"
        raise ValueError(f"{path} {found} (line {line}); save it as UTF-8.") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(
            f"{path} has a zero byte (line {line}), as UTF-16 without a mark has; save "
            "it as UTF-8."
        )
    return text


def read_names(path):
    """The names in a text file, one in a line; empty lines at the end do not count.

    Raises:
        ValueError: if it is no text, or a line between is empty.
    """
    names = [normalized(line) for line in read_text(path).splitlines()]
    while names and not names[-1]:
        names.pop()
    if "" in names:
        raise ValueError(
            f"{path} has no name in line {names.index('') + 1}; it needs one in each."
        )
    return names


def folders_by_name(folder, found):
    """Class folders by the names of their classes, in the order of these.

    Args:
        folder: where they are, for messages.
        found: their names as the file system has them.

    Raises:
        ValueError: if two are of one name, or one is not Unicode text.
    """
    names = check_names(found, what=f"{folder}: the list of class folders")
    return dict(sorted(zip(names, found, strict=True)))


def places(found, known, found_where, known_where):
    """The number of each name among known ones, int64.

    Args:
        found: names, which may repeat.
        known: the names of all classes, in order.
        found_where: what has the found ones, in words that end in "has" or the like.
        known_where: the same of the known ones.

    Raises:
        ValueError: if there are others, with their names.
    """
    numbers = {name: number for number, name in enumerate(known)}
    if unknown := sorted(set(found) - numbers.keys()):
        raise ValueError(
            f"{found_where} {listed(unknown)}, but {known_where} only {listed(known)}."
        )
    return np.array([numbers[name] for name in found], "int64")


def numbers_or_names(labels, what):
    """The labels in an array: numbers as int64, or a list of names.

    Args:
        labels: an array of shape `(images,)` or `(images, 1)`, of whole numbers or of
            text.
        what: what messages call it, file and array.

    Raises:
        ValueError: if it holds something else, with what and what would work.
    """
    if labels.ndim != 1 and labels.shape[1:] != (1,):
        rows = labels.ndim == 2
        hint = " Of one-hot rows use .argmax(axis=1)." if rows else ""
        raise ValueError(
            f"{what} is of shape {labels.shape}; labels are one number or name for "
            f"each image, of shape (images,).{hint}"
        )
    labels = labels.ravel()
    if labels.dtype.kind in "US":
        names = [normalized(name) for name in _texts(labels, what)]
        if "" in names:
            raise ValueError(f"{what} has no name for image {names.index('')}.")
        return names
    if labels.dtype.kind == "f":
        is_whole = np.isfinite(labels) & (labels == np.floor(labels))
        if not is_whole.all():
            first = int(is_whole.argmin())
            raise ValueError(
                f"{what} has the label {labels[first]:g} for image {first}; labels are "
                "whole numbers from 0, or names."
            )
    elif labels.dtype.kind not in "iu":
        raise ValueError(
            f"{what} holds {labels.dtype}; labels are whole numbers from 0 "
            "(.astype('int64')), or names (.astype(str))."
        )
    # int64 has room for less than uint64 and float64.
    if labels.size and int(labels.max()) > np.iinfo("int64").max:
        raise ValueError(
            f"{what} has the label {labels.max():g}; labels are whole numbers from 0."
        )
    return labels.astype("int64")


def _texts(array, what):
    """The text or UTF-8 bytes in an array as strings."""
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{what} holds bytes that are not UTF-8 ({error.object!r:.80}); save "
                "text, .astype(str)."
            ) from error
    return array.tolist()


def class_names_of(array, what):
    """The names of classes in an array, in order.

    Raises:
        ValueError: if they are no names, or two are the same.
    """
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise ValueError(
            f"{what} holds {array.dtype} of shape {array.shape}, not a name for each "
            "class; write it with numpy.array([...], dtype=str)."
        )
    return check_names(_texts(array, what), what=what)


def check_numbers(labels, classes, what):
    """Raises a ValueError if labels are not numbers of so many classes.

    Args:
        labels: int64 array of shape `(images,)`.
        classes: how many there are.
        what: what messages call the labels.
    """
    if not labels.size:
        return
    first, last = int(labels.min()), int(labels.max())
    if first >= 0 and last < classes:
        return
    hint = ""
    if first == 1 and last == classes:
        hint = " They count from 1: subtract 1."
    raise ValueError(
        f"{what} has labels from {first} to {last}, but the {classes} classes are "
        f"numbered from 0 to {classes - 1}.{hint}"
    )


def check_occurrence(train, test, names, where):
    """Names the classes that no image is of.

    Args:
        train: the labels of the training images, int64 of shape `(images,)`.
        test: those of the test images.
        names: of all classes.
        where: what messages call the data set.

    Raises:
        ValueError: if the training images are of fewer than two classes.
    """
    for labels, split in ((train, "training"), (test, "test")):
        check_numbers(labels, len(names), f"{where}: the array of {split} labels")
        counts = np.bincount(labels, minlength=len(names))
        if split == "training" and np.count_nonzero(counts) < 2:
            found = listed(such(names, counts > 0)) or "no class"
            raise ValueError(
                f"{where} has training images of {found} alone; images of two classes "
                "are the least to learn from."
            )
        warn_of_missing(counts, names, split, where)


def warn_of_missing(counts, names, split, where):
    """Names the classes that no image of a split is of, in a warning."""
    if missing := such(names, counts == 0):
        warnings.warn(
            f"{where} has no {split} image of {len(missing)} of its {len(names)} "
            f"classes: {listed(missing)}.",
            stacklevel=4,
        )


def such(names, wanted):
    """The names of the classes of which an array of bool says so."""
    return [name for name, is_wanted in zip(names, wanted, strict=True) if is_wanted]
