"""What is in a `.keras` or `.weights.h5` file, before anything is built from it.

A file may be damaged, or made to take all memory: everything is checked against the
size of the file first.
"""

import contextlib
import hashlib
import io
import json
import math
import zipfile
from concurrent.futures import ThreadPoolExecutor

import h5py
import keras
import numpy as np

from keras_cbvit.models.arguments import (
    ARGUMENTS,
    check_arguments,
    count_weights,
    plain_arguments,
)

MODEL = "keras_cbvit>VisionTransformer"
LARGEST_CONFIG = 16 << 20  # bytes; that of a UperNet takes 100,000
# Keras compresses nothing; somebody else may have, but noise hardly shrinks.
EXPANSION = 100
MOST_PER_BYTE = 4  # weights; int4 has two
LARGEST_WEIGHT = 1e8
"""No trained weight is as large; of damaged ones, nearly every second is."""
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_DIGEST = "keras_cbvit_sha256"
# What a configuration says beside the arguments, and the caller decides again.
_STATE = ("dtype", "name", "trainable", "frozen_layers", "quantized")


def model_config(path):
    """What `config.json` of a `.keras` file says; the whole file is checked.

    Raises:
        ValueError: if the file is damaged, or not what Keras writes.
        OSError: if it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_parts(archive, path)
            found = json.loads(archive.read(_CONFIG))
            _check_weights(io.BytesIO(archive.read(_WEIGHTS)))
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # of many kinds, by zipfile, zlib, json and h5py
        raise damaged(path, error) from error
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        raise damaged(path, f"{_CONFIG} does not describe a model")
    return found


def saved_config(path):
    """The arguments of the model in a `.keras` file; empty for a `.weights.h5` file.

    With `class_names`, if the file has them.

    Raises:
        ValueError: if the file is damaged, or holds another kind of model.
    """
    if path.name.endswith(".weights.h5"):
        return {}
    found = model_config(path)
    if found.get("registered_name") != MODEL:
        raise ValueError(
            f"{path} holds a model of the class {found.get('class_name')!s:.80}, not "
            "the VisionTransformer that ViTCB builds; load it with "
            "keras_cbvit.load_model."
        )
    config = found["config"]
    if "quantized" in config:
        raise ValueError(
            f"{path} holds a quantized model; load it with keras_cbvit.load_model."
        )
    return check_saved(path, config)


def check_saved(path, config):
    """The arguments of a `VisionTransformer` in a file, each checked by itself.

    Raises:
        ValueError: if one is missing, unknown or impossible, or if the file is too
            small for the weights that they make.
    """
    config = {key: value for key, value in config.items() if key not in _STATE}
    config.setdefault("remat", False)  # which is younger than some files
    if missing := [name for name in ARGUMENTS if name not in config]:
        raise damaged(path, f"its model lacks the argument {missing[0]}")
    known = (*ARGUMENTS, "class_names")
    if unknown := [name for name in config if name not in known]:
        raise damaged(path, f"its model has the unknown argument {unknown[0]:.80}")
    names = config.get("class_names")
    if names is not None and not isinstance(names, list):
        raise damaged(path, "the class names of its model are not a list")
    try:
        config |= plain_arguments({name: config[name] for name in ARGUMENTS})
        check_arguments(config)
    except ValueError as error:
        raise damaged(path, f"of its model, {error}") from error
    _check_count(path, count_weights(config))
    return config


def check_size_of(path, found):
    """Raises a ValueError if a file is too small for the weights of its model.

    Nothing is allocated to count them. What cannot be built is for the loader to say.

    Args:
        path: the file.
        found: its `model_config`.
    """

    def count():
        with keras.StatelessScope(initialize_variables=False):
            model = keras.saving.deserialize_keras_object(found)
            return sum(math.prod(weight.shape) for weight in model.weights)

    weights = 0
    # Keras would initialize the variables later in the same thread.
    with ThreadPoolExecutor(1) as thread, contextlib.suppress(Exception):
        weights = thread.submit(count).result()
    _check_count(path, weights)


def _check_count(path, weights):
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo(_WEIGHTS).file_size
    if weights > MOST_PER_BYTE * size:
        raise damaged(path, f"its model has {weights:.3g} weights in {size:,} bytes")


def check_h5(path):
    """Checks that a `.weights.h5` file is whole, and no larger than it looks.

    That its numbers are those that were saved is only known of a file that is signed.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        _check_weights(path)
        with h5py.File(path, "r") as file:
            digest = file.attrs.get(_DIGEST)
            if digest is not None and digest != _digest(file):
                raise ValueError("its weights are not those that were saved")
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # of many kinds, by h5py
        raise damaged(path, error) from error


def sign(path):
    """Adds a digest of its content to a `.weights.h5` file, where Keras writes none."""
    with h5py.File(path, "a") as file:
        file.attrs[_DIGEST] = _digest(file)


def _digest(file):
    digest = hashlib.sha256()

    def add(name, item):
        digest.update(name.encode())
        if isinstance(item, h5py.Dataset):
            digest.update(f"{item.dtype} {item.shape}".encode() + item[()].tobytes())

    file.visititems(add)
    return digest.hexdigest()


def check_values(path, model):
    """Raises a ValueError unless the loaded weights of a model can be trained ones.

    Those of a `.keras` file, which has checksums, only have to be finite.
    """
    most = LARGEST_WEIGHT if path.suffix == ".h5" else np.finfo("float64").max
    for weight in model.trainable_weights:
        values = keras.ops.convert_to_numpy(weight)
        if not -most <= values.min(initial=0) <= values.max(initial=0) <= most:
            raise damaged(path, f"{weight.path} has values that no training gives")


def damaged(path, reason):
    """The error of a file that is not what it should be."""
    if isinstance(reason, Exception):
        reason = f"{type(reason).__name__}: {reason}"
    reason = " ".join(str(reason).split())
    return ValueError(
        f"{path} is damaged or not a file of weights ({reason:.300}). Fetch or publish "
        "it again."
    )


def _check_parts(archive, path):
    """Checks the sizes and the checksums of what is in an archive."""
    parts = archive.infolist()
    if len({part.filename for part in parts}) < len(parts):
        raise ValueError("it has two parts of one name")
    sizes = {part.filename: part.file_size for part in parts}
    if sizes[_CONFIG] > LARGEST_CONFIG:
        raise ValueError(f"{_CONFIG} has {sizes[_CONFIG]:,} bytes")
    total, size = sum(sizes.values()), path.stat().st_size
    if total > EXPANSION * size:
        raise ValueError(f"it has {size:,} bytes, and its parts have {total:,}")
    if (name := archive.testzip()) is not None:
        raise ValueError(f"the checksum of {name:.80} is wrong")


def _check_weights(file):
    """Checks that the arrays of an HDF5 file are in it, in their full size."""

    def check(name, item):
        if not isinstance(item, h5py.Dataset):
            return
        if item.is_virtual or item.external:
            raise ValueError(f"{name:.80} is in another file")
        if item.nbytes > EXPANSION * item.id.get_storage_size():
            raise ValueError(f"{name:.80} has {item.nbytes:,} bytes")

    with h5py.File(file, "r") as content:
        content.visititems(check)
