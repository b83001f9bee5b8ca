"""Fingerprints of data sets, to refuse resuming a run with different data.

A fingerprint includes the names and sizes of files, the pixels of arrays, and only the
labels of TFDS records, since TFDS data sets have versions. Folders may therefore be
moved or copied, and ImageNet takes half a minute. Editing an image in place without
changing its file size goes undetected.
"""

import hashlib
import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .records import Records
from .storage import Objects, size

NO_CLASS = -1
_LISTS = ("classes", "images", "digests")
_SPLIT = {
    "classes": [int],
    "images": [int],
    "digests": [str],
    "order": str,
    "left_out": int,
}
FORM = {"description": str, "class_names": [str], "train": _SPLIT, "test": _SPLIT}
"""Form of the result of `dataset_fingerprint`, for `recipes.files.check_form`."""


def dataset_fingerprint(dataset):
    """Describes the data of a training run, for `config.json`.

    Args:
        dataset: data set with `class_names` and `description`, and `train` and `test`,
            which have a method `fingerprint()`.
    """
    return {
        "description": dataset.description,
        "class_names": [str(name) for name in dataset.class_names],
        "train": dataset.train.fingerprint(),
        "test": dataset.test.fingerprint(),
    }


def fingerprint(marks, labels, left_out=0):
    """Computes the fingerprint of a split.

    Args:
        marks: bytes that identify each image, see `image_marks`.
        labels: the class of each image, `NO_CLASS` for segmentation, or multi-label
            targets of two axes.
        left_out: number of images skipped because they cannot be decoded.

    Returns:
        A dict of the `classes` that occur, the number of `images` of each class, a
        digest of the marks of each class (`digests`), a digest of all labels
        (`order`), and `left_out`.
    """
    order = None
    if labels.ndim != 1:
        order = np.packbits(labels).tobytes()
        labels = np.full(len(labels), NO_CLASS)
    classes, groups, counts = np.unique(labels, return_inverse=True, return_counts=True)
    hashes = [hashlib.sha256() for _ in classes]
    if order is None:
        order = groups.astype("<i8").tobytes()
    for mark, group in zip(marks, groups.tolist(), strict=True):
        hashes[group].update(len(mark).to_bytes(8, "little") + mark)
    return {
        "classes": classes.tolist(),
        "images": counts.tolist(),
        "digests": [each.hexdigest()[:16] for each in hashes],
        "order": hashlib.sha256(order).hexdigest()[:16],
        "left_out": left_out,
    }


def image_marks(encoded, indices):
    """Returns an iterable of bytes that identify each image.

    Args:
        encoded: a sequence of paths, of uint8 arrays, of bytes, or `Records` or
            `Objects`.
        indices: indices of the images.
    """
    if isinstance(encoded, Records):  # avoid reading them
        return [b""] * len(indices)
    if isinstance(encoded, np.ndarray):
        return (_pixels(encoded[i]) for i in indices)
    if isinstance(encoded, Objects):  # avoid reading them
        encoded = encoded.urls
    chosen = [encoded[i] for i in indices]
    if chosen and isinstance(chosen[0], str | os.PathLike):
        return _names_and_sizes([os.fspath(path) for path in chosen])
    return (_pixels(i) if isinstance(i, np.ndarray) else b"" for i in chosen)


def _pixels(array):
    return f"{array.dtype} {array.shape} ".encode() + array.tobytes()


def _names_and_sizes(paths):
    """Returns the sizes of files with their paths relative to their common folder."""
    # The scheme is removed so that a copy on disk has the same fingerprint.
    places = [path.rpartition("://")[2] for path in paths]
    ends = min(places), max(places)
    folder = os.path.commonpath([os.path.dirname(place) for place in ends])
    # In parallel, since network disks have a high latency but serve many requests.
    some = [paths[i : i + 1000] for i in range(0, len(paths), 1000)]
    with ThreadPoolExecutor(32) as pool:
        sizes = pool.map(lambda part: [size(path) for path in part], some)
        sizes = list(itertools.chain.from_iterable(sizes))
    return [
        os.fsencode(place[len(folder) :]) + b"\0%d" % number
        for place, number in zip(places, sizes, strict=True)
    ]


def describe_differences(before, now):
    """Yields descriptions of the differences between the data of two runs.

    Args:
        before: earlier result of `dataset_fingerprint`, in the form `FORM`.
        now: current result of `dataset_fingerprint`.
    """
    if before["description"] != now["description"]:
        yield f"{before['description']:.80}, now {now['description']:.80}"
    if before["class_names"] != now["class_names"]:
        yield _compare_classes(before["class_names"], now["class_names"])
    for split, kind in (("train", "training"), ("test", "test")):
        one, other = before[split], now[split]
        if sum(one["images"]) != sum(other["images"]):
            yield f"{sum(one['images'])} {kind} images, now {sum(other['images'])}"
        elif before["class_names"] == now["class_names"] and one != other:
            yield from _compare_images(one, other, kind, now["class_names"])


def _compare_classes(before, now):
    known, found = set(before), set(now)
    gone = [name for name in before if name not in found]
    new = [name for name in now if name not in known]
    if len(gone) == len(new) == 1:
        return f"class {gone[0]!r:.40} is now {new[0]!r:.40}"
    parts = [f"without {_list_classes(gone)}"] if gone else []
    parts += [f"with the new {_list_classes(new)}"] if new else []
    return " and ".join(parts) or "the classes are in a different order"


def _list_classes(names):
    shown = ", ".join(f"{name!r:.40}" for name in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"class{'es' if len(names) > 1 else ''} {shown}{more}"


def _compare_images(before, now, kind, class_names):
    one, other = (
        {label: each for label, *each in zip(*map(split.get, _LISTS), strict=False)}
        for split in (before, now)
    )
    for label in sorted(one.keys() | other.keys()):
        number, digest = one.get(label, (0, ""))
        count, found = other.get(label, (0, ""))
        name = class_names[label : label + 1]
        of = "" if label == NO_CLASS else f" of {_list_classes(name)}"
        if number != count:
            yield f"{number} {kind} images{of}, now {count}"
        elif digest != found:
            yield f"{number} {kind} images{of} with different names, sizes or pixels"
    if before["left_out"] != now["left_out"]:
        yield f"{before['left_out']} {kind} images skipped, now {now['left_out']}"
    elif one == other:
        yield f"the {kind} images in a different order"
