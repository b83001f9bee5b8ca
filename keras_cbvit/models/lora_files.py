"""Saves and loads LoRA without the rest of the model."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from keras_cbvit import hdf5
from keras_cbvit.arguments import refuse
from keras_cbvit.classes import check_names
from keras_cbvit.files import InMemory, write
from keras_cbvit.models.difference import difference
from keras_cbvit.models.fine_tuning import backbone_layers
from keras_cbvit.models.lora import (
    Lora,
    check_no_other_lora,
    enable_lora,
    lora_layers,
    lora_of,
    scales_of,
)
from keras_cbvit.models.segmentation import FeaturePyramid, SegmentationModel
from keras_cbvit.models.spec import ViTSpec
from keras_cbvit.models.vision_transformer import VisionTransformer

SUFFIX = ".lora.h5"
_RECORD = "record"
"""The dataset with the metadata as JSON."""
_PYRAMID = "blocks_of_pyramid"


def save_lora_weights(model: keras.Model, path: str | os.PathLike) -> None:
    """Saves the trainable weights of a model with LoRA: its matrices, the head and Λ.

    Λ is saved only if it is trainable. The file identifies the architecture and the
    weights of the rest of the model. It is written atomically.

    Args:
        model: a model with LoRA, see `enable_lora`.
        path: path of the file; must end in `.lora.h5`.

    Raises:
        ValueError: if the model has no LoRA, other weights of the backbone are
            trainable, or the path does not end in `.lora.h5`.
        OSError: if the file cannot be written.
    """
    path = _check_path(path)
    lora = lora_of(model)
    if lora is None:
        raise ValueError(f"{model.name} has no LoRA to save; see enable_lora.")
    weights = _weights(model, lora)
    for weight in _base(model, weights):
        if weight.trainable:
            raise ValueError(
                f"{weight.path} is trainable as well, so LoRA alone does not restore "
                "the model; save the whole model."
            )
    record = {
        **dataclasses.asdict(lora),
        "architecture": _architecture(model),
        "base": _digest(_base(model, weights)),
        "class_names": getattr(model, "class_names", None),
    }
    file = InMemory(path.name)
    with h5py.File(file, "w") as content:
        content[_RECORD] = np.frombuffer(json.dumps(record).encode(), "uint8")
        for name, weight in weights.items():
            content[name] = _array(weight)
    hdf5.sign(file)
    write(path, file.getbuffer())


def load_lora_weights(model: keras.Model, path: str | os.PathLike) -> None:
    """Loads LoRA into a model, with the head and Λ that were trained with it.

    The model then predicts like the saved one. `enable_lora` has been called on it, so
    training can continue.

    Args:
        model: a model with the architecture and the weights that LoRA was trained on,
            and a head with as many classes, whose weights do not matter. It may already
            have LoRA with the same arguments.
        path: a file from `save_lora_weights`.

    Raises:
        ValueError: if the file is damaged or does not match the model. The model is not
            changed.
        OSError: if the file cannot be read.
    """
    path = _check_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    lora, record, arrays = _read(path)
    _check_architecture(path, model, record["architecture"])
    check_no_other_lora(model, lora)
    weights = _weights(model, lora)
    _check_shapes(path, model, lora, weights, arrays)
    if _digest(_base(model, weights)) != record["base"]:
        raise ValueError(
            f"{path} was trained on other weights than those of {model.name}; load the "
            "model that LoRA was enabled on, with the same quantization."
        )
    arguments = dataclasses.asdict(lora)
    enable_lora(model, arguments.pop("rank"), **arguments)
    for name, weight in _weights(model, lora).items():
        weight.assign(arrays[name])
    if record["class_names"] is not None:
        model.class_names = record["class_names"]


def _check_path(path):
    path = Path(path)
    if not path.name.endswith(SUFFIX):
        refuse("path", str(path), f"must end in {SUFFIX}.")
    return path


def _weights(model, lora):
    """Returns the weights to save by name, without LoRA not yet enabled."""
    weights = {
        f"{path}/{name}": getattr(layer, name)
        for path, layer in lora_layers(model, lora).items()
        if layer.lora_enabled
        for name in ("lora_kernel_a", "lora_kernel_b")
    }
    if lora.train_scale:
        weights |= scales_of(model)
    of_backbone = {id(w) for layer in backbone_layers(model) for w in layer.weights}
    head = [weight for weight in model.weights if id(weight) not in of_backbone]
    # By number: the names of layers in a custom head differ between processes.
    return weights | {
        f"head/{i}/{weight.name}": weight for i, weight in enumerate(head)
    }


def _base(model, weights):
    """Returns the weights of a model's backbone that are not in the file."""
    own = {id(weight) for weight in weights.values()}
    return [
        weight
        for layer in backbone_layers(model)
        for weight in sorted(layer.weights, key=lambda weight: weight.path)
        if id(weight) not in own
    ]


def _digest(weights):
    digest = hashlib.sha256()
    for weight in weights:
        value = _array(weight)
        digest.update(f"{weight.name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _array(weight):
    """Returns a weight as an array for HDF5, which has no bfloat16."""
    value = np.asarray(keras.ops.convert_to_numpy(weight))
    return value.astype("float32") if value.dtype.name == "bfloat16" else value


def _architecture(model) -> dict[str, Any]:
    """Returns the architecture of a backbone as JSON values; empty if unknown."""
    if isinstance(model, VisionTransformer):
        return model.spec.to_json()
    if isinstance(model, SegmentationModel):
        return _architecture(model._get_backbone())
    if isinstance(model, FeaturePyramid):
        own = model._own()
        return {**own["vit"].spec.to_json(), _PYRAMID: list(own["blocks"])}
    inner = [_architecture(e) for e in model.layers if isinstance(e, keras.Model)]
    return next(filter(None, inner), {})


def _spec(architecture):
    """Returns the spec of a known architecture."""
    return ViTSpec(**{k: each for k, each in architecture.items() if k != _PYRAMID})


def _check_architecture(path, model, theirs):
    """Raises a ValueError if a model computes another function than a file's model."""
    ours = _architecture(model)
    if not ours or not theirs:
        return
    key = difference(_spec(theirs), _spec(ours))
    if key is None and theirs.get(_PYRAMID) != ours.get(_PYRAMID):
        key = _PYRAMID
    if key is not None:
        raise ValueError(
            f"{path} is for a model with {key}={theirs.get(key)!r:.80}, but "
            f"{model.name} has {key}={ours.get(key)!r:.80}."
        )


def _check_shapes(path, model, lora, weights, arrays):
    """Raises a ValueError unless the arrays have the names and shapes of the LoRA."""
    wanted = {name: tuple(weight.shape) for name, weight in weights.items()}
    for name, layer in lora_layers(model, lora).items():
        channels = layer.input_spec.axes[-1]
        wanted[f"{name}/lora_kernel_a"] = channels, lora.rank
        wanted[f"{name}/lora_kernel_b"] = lora.rank, layer.units
    found = {name: array.shape for name, array in arrays.items()}
    for name in [*wanted, *found]:
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"{path} does not match {model.name}: {name} has shape "
                f"{found.get(name, 'none')} in the file and {wanted.get(name, 'none')} "
                "in the model."
            )


def _read(path):
    """Validates a file and returns its LoRA, the rest of its record and its arrays."""
    hdf5.check(path)
    arrays = {}

    def add(name, item):
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    try:
        with h5py.File(path) as file:
            file.visititems(add)
        record = json.loads(arrays.pop(_RECORD).tobytes())
        fields = {each.name: record.pop(each.name) for each in dataclasses.fields(Lora)}
        for name in ("targets", "blocks"):
            fields[name] = tuple(fields[name])
        lora = Lora(**fields)
        if record.keys() != {"architecture", "base", "class_names"}:
            raise ValueError("its record has missing or unknown keys")
        if record["architecture"]:
            _spec(record["architecture"])
        if record["class_names"] is not None:
            check_names(record["class_names"])
    except Exception as error:  # h5py and JSON raise many types
        raise hdf5.damage_error(path, error) from error
    return lora, record, arrays
