"""Reads and checks Keras's weights files: `.weights.h5`, also within `.keras` files.

Files may be damaged or malicious, so they are checked before they are read.
"""

import hashlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

# Keras does not compress; other programs may, but trained weights hardly shrink.
EXPANSION = 100
_DIGEST = "keras_cbvit_sha256"


def damage_error(path: Any, reason: Any) -> ValueError:
    """Returns the error for a damaged file."""
    if isinstance(reason, Exception):
        reason = f"{type(reason).__name__}: {reason}"
    reason = " ".join(str(reason).split())
    return ValueError(
        f"{path} is damaged or not a weights file ({reason:.300}); download or publish "
        "it again."
    )


def check(path: Path) -> None:
    """Checks that a `.weights.h5` file is complete and has plausible sizes.

    The values themselves are only verified in a file with a digest (see `sign`).

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        check_sizes(path)
        with h5py.File(path, "r") as file:
            digest = file.attrs.get(_DIGEST)
            if digest is not None and digest != _digest(file):
                raise ValueError("its weights do not match its digest")
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # h5py raises many types
        raise damage_error(path, error) from error


def check_sizes(file: Any) -> None:
    """Raises a ValueError unless an HDF5 file contains its arrays in full size."""

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
    """Adds a digest of its content to an HDF5 file."""
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
    """Reads the weights of a model in an HDF5 file.

    Keras stores the name of each layer, and its weights by number.

    Args:
        file: the path of a file, or a file object.

    Returns:
        A dict of lists of arrays by layer path, `{"block_0/mlp/fc1": [kernel, bias],
        ...}`, in order of creation. Seed generators are left out.
    """
    with h5py.File(file, "r") as content:
        return {
            path: [_array(each) for each in datasets]
            for path, datasets in _layers(content["layers"], [])
        }


def _layers(group, path):
    """Yields the path and the weights of each layer in a group."""
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
    """Reads a dataset as a NumPy array."""
    values = dataset[()]
    if dataset.attrs.get("dtype") != "bfloat16":
        return values
    # Keras stores raw bytes; bfloat16 is the upper half of a float32.
    return (values.view("uint16").astype("uint32") << 16).view("float32")
