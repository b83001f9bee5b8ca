"""Reads Keras's files: `.keras`, a complete model, and `.weights.h5`.

Files may be damaged or malicious, so sizes are checked before anything is built or
allocated.
"""

import contextlib
import io
import json
import math
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np

from keras_cbvit import hdf5
from keras_cbvit.files import InMemory
from keras_cbvit.hdf5 import damage_error
from keras_cbvit.internals import layers_within
from keras_cbvit.models.base import STATE
from keras_cbvit.models.size import count_weights
from keras_cbvit.models.spec import ViTSpec
from keras_cbvit.models.vision_transformer import VisionTransformer
from keras_cbvit.pretrained.formats.content import Content

SUFFIXES = (".keras", ".weights.h5")
LARGEST_CONFIG = 16 << 20  # bytes; a UperNet's config takes 100,000
MOST_PER_BYTE = 4  # weights per byte; int4 has two
LARGEST_WEIGHT = 1e8
"""Trained weights are smaller; nearly half of random bit patterns are larger."""
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_VIT = keras.saving.get_registered_name(VisionTransformer)


def read(path: Path) -> Content:
    """Reads a `.keras` or `.weights.h5` file of a `VisionTransformer`.

    The content of a `.weights.h5` file has no spec.

    Raises:
        ValueError: if the file is damaged or has another kind of model.
        OSError: if the file cannot be read.
    """
    if path.name.endswith(".weights.h5"):
        hdf5.check(path)
        weights = _weights(path, path)
        content = Content(str(path), weights)
    else:
        config, file = _open(path)
        spec, names = _read_vit_config(path, config, file)
        with zipfile.ZipFile(file) as archive:
            weights = _weights(path, io.BytesIO(archive.read(_WEIGHTS)))
        content = Content(str(path), weights, spec, names)
    most = LARGEST_WEIGHT if path.suffix == ".h5" else np.finfo("float64").max
    for layer, values in weights.items():
        for each in values:
            check_values(path, layer, each, most)
    return content


def from_model(model: VisionTransformer) -> Content:
    """Reads a live model.

    Raises:
        ValueError: if the model is quantized or has LoRA.
    """
    weights = {}
    for name, weight in model.weights_by_name().items():
        # Copied: JAX deletes arrays that a training step has donated.
        array = np.array(keras.ops.convert_to_numpy(weight))
        weights.setdefault(name.rpartition("/")[0], []).append(array)
    for layer in layers_within(model):
        if layer.quantization_mode or getattr(layer, "lora_enabled", False):
            raise ValueError(
                f"{layer.path} of the model is quantized or has LoRA; pass a model "
                "that is not quantized, after merge_lora(model)."
            )
    return Content(model.name, weights, model.spec, model.class_names)


def load(path: Path) -> keras.Model:
    """Loads the model in a `.keras` file, not compiled.

    Raises:
        ValueError: if the file is damaged or has no model, or Keras cannot or will not
            load a part of it.
        OSError: if the file cannot be read.
    """
    config, file = _open(path)
    if config.get("registered_name") == _VIT:
        _check_spec(path, config["config"], file)
    else:
        _check_count(path, file, _count_weights(config))
    try:
        model = keras.saving.load_model(path, compile=False)
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # building layers raises many types
        if "Could not locate" in str(error):
            raise ValueError(
                f"{path} has custom objects ({_cause(error)}); register them, or load "
                "it with keras.saving.load_model(..., custom_objects=...)."
            ) from error
        if "safe_mode" in str(error):
            raise ValueError(
                f"{path} has a Lambda layer, which would run code from the file; if "
                "you trust it, use keras.saving.load_model(..., safe_mode=False)."
            ) from error
        raise damage_error(path, error) from error
    for weight in model.trainable_weights:
        values = keras.ops.convert_to_numpy(weight)
        check_values(path, weight.path, values, np.finfo("float64").max)
    return model


def check_values(path: Path, name: str, values: np.ndarray, most: float) -> None:
    """Raises a ValueError unless all values are finite and at most `most`."""
    least, largest = float(values.min(initial=0)), float(values.max(initial=0))
    if not -most <= least <= largest <= most:
        raise damage_error(path, f"{name} has values that are not finite or too large")


def _open(path):
    """Reads and checks a `.keras` file; returns its configuration and the file."""
    file = InMemory(path.name, path.read_bytes())
    try:
        with zipfile.ZipFile(file) as archive:
            _check_parts(archive, len(file.getbuffer()))
            found = json.loads(archive.read(_CONFIG))
            hdf5.check_sizes(io.BytesIO(archive.read(_WEIGHTS)))
    except MemoryError:
        raise
    except Exception as error:  # zipfile, zlib, json and h5py raise many types
        raise damage_error(path, error) from error
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        raise damage_error(path, f"{_CONFIG} does not describe a model")
    return found, file


def _read_vit_config(path, config, file):
    """Returns the spec and the class names of a Vision Transformer's configuration."""
    if config.get("registered_name") != _VIT:
        raise ValueError(
            f"{path} has a {config.get('class_name')!s:.80}, not a VisionTransformer; "
            "load it with keras_cbvit.load_model."
        )
    config = config["config"]
    if "quantized" in config:
        raise ValueError(
            f"{path} has a quantized model; load it with keras_cbvit.load_model."
        )
    names = config.get("class_names")
    return _check_spec(path, config, file), None if names is None else tuple(names)


def _check_spec(path, config, file):
    if unknown := sorted(config.keys() - {"spec", *STATE}):
        raise damage_error(path, f"its model has the unknown argument {unknown[0]:.80}")
    names = config.get("class_names")
    if names is not None and not isinstance(names, list):
        raise damage_error(path, "the class names of its model are not a list")
    try:
        spec = ViTSpec(**config["spec"])
    except (KeyError, TypeError, ValueError) as error:
        raise damage_error(path, f"its spec is not valid: {error}") from error
    _check_count(path, file, count_weights(spec))
    return spec


def _count_weights(config):
    """Counts the weights of a model without allocating them.

    Returns 0 if the model cannot be built; loading it reports the error.
    """

    def count():
        with keras.StatelessScope(initialize_variables=False):
            model = keras.saving.deserialize_keras_object(config)
            return sum(math.prod(weight.shape) for weight in model.weights)

    # Keras would initialize the variables later in the same thread.
    with ThreadPoolExecutor(1) as thread, contextlib.suppress(Exception):
        return thread.submit(count).result()
    return 0


def _check_count(path, file, weights):
    with zipfile.ZipFile(file) as archive:
        size = archive.getinfo(_WEIGHTS).file_size
    if weights > MOST_PER_BYTE * size:
        raise damage_error(
            path, f"its model has {weights:.3g} weights in {size:,} bytes"
        )


def _check_parts(archive, size):
    """Checks the sizes and checksums of the parts of an archive of `size` bytes."""
    parts = archive.infolist()
    if len({part.filename for part in parts}) < len(parts):
        raise ValueError("it has two parts with one name")
    sizes = {part.filename: part.file_size for part in parts}
    if sizes[_CONFIG] > LARGEST_CONFIG:
        raise ValueError(f"{_CONFIG} has {sizes[_CONFIG]:,} bytes")
    if (total := sum(sizes.values())) > hdf5.EXPANSION * size:
        raise ValueError(f"it has {size:,} bytes, but its parts have {total:,}")
    if (name := archive.testzip()) is not None:
        raise ValueError(f"the checksum of {name:.80} is wrong")


def _weights(path, file):
    try:
        return hdf5.read_weights(file)
    except MemoryError:
        raise
    except Exception as error:  # h5py raises many types
        raise damage_error(path, error) from error


def _cause(error):
    """Returns the innermost error of Keras's message, without the configuration."""
    cause = str(error).rpartition("Exception encountered: ")[2]
    return cause.partition("\n")[0].partition(". ")[0]
