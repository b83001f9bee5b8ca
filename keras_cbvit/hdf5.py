"""Keras's files of weights, `.weights.h5` and the one within a `.keras` file.

A file may be damaged, or made to take all memory: it is checked before it is read.
"""

import hashlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

# Keras compresses nothing; somebody else may have, but noise hardly shrinks.
EXPANSION = 100
_DIGEST = "keras_cbvit_sha256"


def damaged(path: Any, reason: Any) -> ValueError:
    """The error of a file that is not what it should be."""
    if isinstance(reason, Exception):
        reason = f"{type(reason).__name__}: {reason}"
    reason = " ".join(str(reason).split())
    return ValueError(
        f"{path} is damaged or not a file of weights ({reason:.300}). Download or "
        "publish it again."
    )


def check(path: Path) -> None:
    """Checks that a `.weights.h5` file is whole, and no larger than it looks.

    That its numbers are those that were saved is only known of a file that is signed.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        check_sizes(path)
        with h5py.File(path, "r") as file:
            digest = file.attrs.get(_DIGEST)
            if digest is not None and digest != _digest(file):
                raise ValueError("its weights are not those that were saved")
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # of many kinds, by h5py
        raise damaged(path, error) from error


def check_sizes(file: Any) -> None:
    """Raises a ValueError unless the arrays of an HDF5 file are in it, in full size."""

    def check_item(name, item):
        if not isinstance(item, h5py.Dataset):
            return
        if item.is_virtual or item.external:
            raise ValueError(f"{name:.80} is in another file")
        if item.nbytes > EXPANSION * item.id.get_storage_size():
            raise ValueError(f"{name:.80} has {item.nbytes:,} bytes")

    with h5py.File(file, "r") as content:
        content.visititems(check_item)


def sign(file: Any) -> None:
    """Adds a digest of its content to an HDF5 file, where Keras writes none."""
    with h5py.File(file, "a") as content:
        content.attrs[_DIGEST] = _digest(content)


def _digest(file):
    digest = hashlib.sha256()

    def add(name, item):
        digest.update(name.encode())
        if isinstance(item, h5py.Dataset):
            digest.update(f"{item.dtype} {item.shape}".encode() + item[()].tobytes())

    file.visititems(add)
    return digest.hexdigest()


def read_weights(file: Any) -> dict[str, list[np.ndarray]]:
    """The weights of a model in an HDF5 file, by the paths of their layers.

    Keras keeps the name of each layer, and its weights by number.

    Args:
        file: the path of a file, or a file object.

    Returns:
        A dict of lists of arrays, `{"block_0/mlp/fc1": [kernel, bias], ...}`, in the
        order in which a layer has created them. Generators of random numbers are left
        out.
    """
    with h5py.File(file, "r") as content:
        return {
            path: [_array(each) for each in datasets]
            for path, datasets in _layers(content["layers"], [])
        }


def _layers(group, path):
    """Each layer's path within a group, and its weights."""
    own = group.get("vars")
    if own is not None:
        path = [*path, own.attrs["name"]]
        numbers = sorted((name for name in own if name.isdecimal()), key=int)
        if numbers and "seed_generator" not in group.name:
            yield "/".join(path), [own[number] for number in numbers]
    for name, part in group.items():
        if isinstance(part, h5py.Group) and name != "vars":
            yield from _layers(part, path)


def _array(dataset):
    """The values of a dataset as NumPy has them."""
    values = dataset[()]
    if dataset.attrs.get("dtype") != "bfloat16":
        return values
    # Keras keeps its bytes, of which NumPy alone knows no dtype: they are the upper
    # half of a float32.
    return (values.view("uint16").astype("uint32") << 16).view("float32")
