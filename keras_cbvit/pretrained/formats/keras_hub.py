"""Reads Vision Transformers of KerasHub: live models and preset folders.

A preset folder has `config.json` and `model.weights.h5` of a backbone, `task.json` and
`task.weights.h5` of a classifier, and `image_converter.json` of its preprocessing.
"""

import json
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cbvit.hdf5 import damage_error
from keras_cbvit.models.spec import IMAGENET_MEAN, IMAGENET_STD
from keras_cbvit.models.vision_transformer import HEAD
from keras_cbvit.pretrained.formats import keras_files
from keras_cbvit.pretrained.formats.content import Content
from keras_cbvit.pretrained.formats.conversion import PROJECTION, make_content, rename

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_TASK, _TASK_WEIGHTS = "task.json", "task.weights.h5"
_CONVERTER = "image_converter.json"
_SUPPORTED = "ViT, DeiT, DINOv2 (with or without registers) and image classifiers"
_HALF = (0.5, 0.5, 0.5)
# Default normalization without an image converter, by backbone.
_NORMALIZATIONS = {
    "ViTBackbone": (_HALF, _HALF),
    "DeiTBackbone": (IMAGENET_MEAN, IMAGENET_STD),
    "DINOV2Backbone": (IMAGENET_MEAN, IMAGENET_STD),
}
_CLASSIFIERS = ("ViTImageClassifier", "DeiTImageClassifier")
# Names of the layers: in ViT and DeiT, then in DINOv2.
_LAYERS = {
    PROJECTION: [
        "patching_and_embedding/patch_embedding",
        "embeddings/patch_embeddings/projection",
    ],
    "norm": ["encoder/ln", "layernorm"],
    HEAD: ["predictions"],
}
_TOKEN_LAYERS = (
    "patching_and_embedding",
    "patching_and_embedding/position_embedding",
    "embeddings",
)
_BLOCK_LAYERS = {
    "norm1": ["ln_1", "norm1"],
    "attention/qkv": [
        [f"mha/{part}" for part in ("query", "key", "value")],
        [f"attention/attention/{part}" for part in ("query", "key", "value")],
    ],
    "attention/projection": [
        "mha/attention_output",
        "attention/attention/attention_output",
    ],
    "layer_scale": ["layer_scale1"],
    "norm2": ["ln_2", "norm2"],
    "mlp/fc1": ["mlp/dense_1", "mlp/dense", "mlp/fc1", "mlp/weights_in"],
    "mlp/fc2": ["mlp/dense_2", "output_layer/output", "mlp/fc2", "mlp/weights_out"],
    "mlp/layer_scale": ["layer_scale2"],
}
# The name of the family or backbone as a prefix of its layers.
_PREFIX = re.compile(
    r"^[^/]*?_(?=(patching_and_embedding|embeddings|encoder|layernorm)\b)"
)
_BLOCK = re.compile(r"encoder/(?:transformer_block|layers)_(\d+)/")


def from_model(model: keras.Model) -> Content:
    """Reads a live backbone or image classifier of KerasHub.

    Raises:
        ValueError: if the model is not supported.
    """
    layers = {}
    for weight in model.weights:  # in order of creation
        layer = weight.path.rpartition("/")[0]
        layers.setdefault(layer, []).append(keras.ops.convert_to_numpy(weight))
    backbone = getattr(model, "backbone", None)
    converter = getattr(getattr(model, "preprocessor", None), "image_converter", None)
    return _read(
        layers,
        _description(model if backbone is None else backbone),
        _description(model) if backbone is not None else None,
        _description(converter) if converter is not None else None,
        f"the {type(model).__name__}",
    )


def recognize_folder(path: Path) -> bool:
    """Returns whether a folder has the layout of KerasHub's presets."""
    return (path / _CONFIG).is_file() and (path / _WEIGHTS).is_file()


def read_folder(path: Path) -> Content:
    """Reads a folder that KerasHub's `save_to_preset` has written.

    Raises:
        ValueError: if the model is not supported or a file is damaged.
        OSError: if a file cannot be read.
    """
    backbone = _read_json(path / _CONFIG)
    task, converter = (_read_json(path / name) for name in (_TASK, _CONVERTER))
    layers = {}
    for file in (path / _WEIGHTS, path / _TASK_WEIGHTS):
        layers |= keras_files.read(file).weights if file.exists() else {}
    try:
        return _read(layers, backbone, task, converter, str(path))
    except KeyError as error:
        raise damage_error(path, f"its configuration has no key {error}") from error


def _description(instance):
    """Returns the class and the arguments of a layer or model, as in a file."""
    return {"class_name": type(instance).__name__, "config": instance.get_config()}


def _read_json(path):
    """Reads the description in a file; `None` if the file does not exist."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
        return {"class_name": str(found["class_name"]), "config": {**found["config"]}}
    except (ValueError, TypeError, KeyError) as error:
        raise damage_error(path, error) from error


def _read(layers, backbone, task, converter, source):
    """Reads layers by KerasHub's names, with the descriptions of its objects."""
    kind, config = backbone["class_name"], backbone["config"]
    classifier = None if task is None else task["class_name"]
    for name, known in ((kind, _NORMALIZATIONS), (classifier, (None, *_CLASSIFIERS))):
        if name not in known:
            raise ValueError(
                f"{source} is KerasHub's {name:.80}, which is not supported; supported "
                f"are {_SUPPORTED}."
            )
    layers = {
        (short := _PREFIX.sub("", name)): _flatten(short, arrays)
        for name, arrays in layers.items()
    }
    tokens = _take_tokens(layers, kind, config, source)
    weights = rename(
        layers, _LAYERS, _BLOCK_LAYERS, _BLOCK, config["num_layers"], source, _SUPPORTED
    )
    for path, arrays in weights.items():
        is_dense = arrays[0].ndim > 1
        if is_dense and len(arrays) == 1 and not path.endswith("attention/qkv"):
            arrays.append(np.zeros(arrays[0].shape[-1], "float32"))
    channels = weights[PROJECTION][0].shape[-2]
    sides = config["image_shape"]
    return make_content(
        source,
        weights,
        tokens,
        image_size=sides[:2] if sides[-1] == channels else sides[1:],
        num_heads=config["num_heads"],
        epsilon=config.get("layer_norm_epsilon", 1e-6),  # a constant in DINOv2
        activation="swiglu" if config.get("use_swiglu_ffn") else "gelu",
        layer_scale=config.get("layer_scale_init_value"),
        pooling=_pooling(task, tokens, source),
        classifier_activation=(task and task["config"]["activation"]) or "softmax",
        **_normalization(converter, kind, channels),
    )


def _flatten(name, arrays):
    """Merges the axes of heads and their channels in a layer's weights."""
    if name.endswith(("/query", "/key", "/value")):
        kernel, *bias = arrays
        return [kernel.reshape(len(kernel), -1), *(each.reshape(-1) for each in bias)]
    if name.endswith("/attention_output"):
        kernel, *bias = arrays
        return [kernel.reshape(-1, kernel.shape[-1]), *bias]
    return list(arrays)


def _take_tokens(layers, kind, config, source):
    """Removes and returns the tokens and the position embedding."""
    arrays = [array for name in _TOKEN_LAYERS for array in layers.pop(name, [])]
    # In KerasHub's order of creation, with whether they exist. DINOv2 has a second
    # position embedding, resampled from the original to its image size.
    is_dino = kind == "DINOV2Backbone"
    exists = {
        "class_token": config.get("use_class_token", True),
        "mask_token": config.get("use_mask_token", False),
        "distillation_token": kind == "DeiTBackbone",
        "register_tokens": config.get("num_register_tokens", 0),
        "position_embedding": True,
        "original_position_embedding": is_dino,
    }
    names = [name for name, used in exists.items() if used]
    if len(names) != len(arrays):
        raise ValueError(
            f"{source} has {len(arrays)} token weights, but must have {names}."
        )
    tokens = dict(zip(names, arrays, strict=True))
    for unused in ("mask_token", "original_position_embedding"):
        tokens.pop(unused, None)
    return tokens


def _pooling(task, tokens, source):
    if task is None:
        return "token" if "class_token" in tokens else "avg"
    pooling = task["config"]["pooling"]
    if pooling == "token" and "class_token" in tokens:
        return "token"
    if pooling == "gap" and tokens.keys() == {"position_embedding"}:
        return "avg"
    raise ValueError(
        f"{source} classifies with pooling={pooling!r:.80}; supported are 'token' with "
        "a class token, and 'gap' without one, since KerasHub's 'gap' averages all "
        "tokens, the class token included."
    )


def _normalization(converter, kind, channels) -> dict[str, Any]:
    """Returns the normalization of images of values 0-1 as fields of a spec."""
    if converter is None:
        mean, std = _NORMALIZATIONS[kind]
        if len(mean) != channels:
            return {"include_preprocessing": False}
        return {"mean": mean, "std": std}
    config = converter["config"]
    scale = np.ones(channels) if config.get("scale") is None else config["scale"]
    offset = np.zeros(channels) if config.get("offset") is None else config["offset"]
    # KerasHub: scale * image + offset, of values 0-255.
    std = np.broadcast_to(1 / (255 * np.asarray(scale)), channels)
    mean = np.broadcast_to(-np.asarray(offset), channels) * std
    return {"mean": mean.round(9).tolist(), "std": std.round(9).tolist()}
