"""Reads Vision Transformers of Hugging Face's transformers.

Since transformers 5, names differ between a file
(`encoder.layer.0.attention.attention.query.weight`) and a model in memory
(`layers.0.attention.q_proj.weight`); both are supported.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_cbvit.arguments import format_value, items, whole_number
from keras_cbvit.classes import check_names
from keras_cbvit.models.spec import IMAGENET_MEAN, IMAGENET_STD
from keras_cbvit.models.vision_transformer import DISTILLATION_HEAD, HEAD
from keras_cbvit.pretrained.formats.content import Content
from keras_cbvit.pretrained.formats.conversion import (
    PROJECTION,
    make_content,
    rename,
)


@dataclasses.dataclass(frozen=True)
class _Family:
    """Defaults of a model type, for what its config does not specify."""

    epsilon: float
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    activation: str = "gelu"
    pooling: str = "token"
    """Pooling of the model without a classifier."""
    classifier_pooling: str | None = "token"
    """Pooling before the classifier; `None` if not supported."""


_HALF = (0.5, 0.5, 0.5)
# By the `model_type` of their configs.
_FAMILIES = {
    "vit": _Family(1e-12, _HALF, _HALF),
    "deit": _Family(1e-12),
    "dinov2": _Family(1e-6, classifier_pooling="token_avg"),
    "dinov2_with_registers": _Family(1e-6, classifier_pooling="token_avg"),
    "vit_mae": _Family(1e-12),
    "vit_msn": _Family(1e-6),
    "clip": _Family(
        1e-5,
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
        activation="quick_gelu",
        classifier_pooling=None,
    ),
    "siglip": _Family(
        1e-6,
        _HALF,
        _HALF,
        activation="gelu_tanh",
        pooling="avg",
        classifier_pooling="avg",
    ),
}
_SUPPORTED = (
    "ViT, DeiT, DINOv2 (with or without registers), ViT-MAE, ViT-MSN and the image "
    "towers of CLIP and SigLIP"
)
_IMAGE_PROJECTION = "visual_projection"  # CLIP's projection to the shared space
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
# Heads of models without 64 channels per head, by `hidden_dim`: ViT-H, SigLIP So400m,
# CLIP's g and bigG.
_HEADS = {1280: 16, 1152: 16, 1408: 16, 1664: 16}

# Names of the layers: in files, then in memory; those of CLIP and SigLIP last.
_LAYERS = {
    PROJECTION: [
        "embeddings.patch_embeddings.projection",
        "embeddings.patch_embedding",
    ],
    "pre_norm": ["pre_layrnorm"],
    "norm": ["layernorm", "post_layernorm"],
    HEAD: ["classifier", "cls_classifier", _IMAGE_PROJECTION],
    DISTILLATION_HEAD: ["distillation_classifier"],
}
_BLOCK_LAYERS = {
    "norm1": ["layernorm_before", "norm1", "layer_norm1"],
    "attention/qkv": [
        [f"attention.attention.{part}" for part in ("query", "key", "value")],
        [f"attention.{part}_proj" for part in "qkv"],
        [f"self_attn.{part}_proj" for part in "qkv"],
    ],
    "attention/projection": [
        "attention.output.dense",
        "attention.o_proj",
        "self_attn.out_proj",
    ],
    "layer_scale": ["layer_scale1"],
    "norm2": ["layernorm_after", "norm2", "layer_norm2"],
    "mlp/fc1": [
        "intermediate.dense",
        "mlp.fc1",
        "mlp.weights_in",
        ["mlp.gate_proj", "mlp.up_proj"],
    ],
    "mlp/fc2": ["output.dense", "mlp.fc2", "mlp.weights_out", "mlp.down_proj"],
    "mlp/layer_scale": ["layer_scale2"],
}
_GATES = ("mlp.weights_in", "mlp.gate_proj")
_TOKENS = {
    "embeddings.cls_token": "class_token",
    "embeddings.class_embedding": "class_token",
    "embeddings.distillation_token": "distillation_token",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.position_embeddings": "position_embedding",
    "embeddings.position_embedding": "position_embedding",
}
# Ignored weights: the pooler with its tanh, masks and decoders of pretraining, text
# towers, SigLIP's attention pooling.
_IGNORED = re.compile(
    r"pooler\.|embeddings\.(mask_token|position_ids)$|decoder\.|head\.|"
    r"text_|logit_(scale|bias)$"
)
_PATCHES = re.compile(r"(.*)embeddings\.patch_embeddings?(\.projection)?\.weight")
_BLOCK = re.compile(r"(?:encoder\.)?layers?\.(\d+)\.")


def recognize(names: Iterable[str]) -> bool:
    """Returns whether the names are those of a Vision Transformer of transformers."""
    return any(_PATCHES.fullmatch(name) for name in names)


def from_model(model: Any) -> Content:
    """Reads a live model of transformers, such as a `ViTModel`.

    Raises:
        ValueError: if the model is not supported.
    """
    arrays = {
        name: tensor.detach().cpu().float().numpy()
        for name, tensor in model.state_dict().items()
    }
    source = f"the {type(model).__name__}"
    if not recognize(arrays):
        raise ValueError(f"{source} is not supported; supported are {_SUPPORTED}.")
    return read(arrays, model.config.to_dict(), source)


def read(
    arrays: Mapping[str, np.ndarray],
    config: Mapping[str, Any] | None,
    source: str,
    given: Mapping[str, Any] | None = None,
) -> Content:
    """Reads weights with the names of transformers.

    Ignores the pooler of a ViT, a decoder, the text tower of CLIP and the attention
    pooling of SigLIP. CLIP's image projection becomes the head.

    Args:
        arrays: the weights by name.
        config: the `config.json` of the model, with that of its image processor under
            `"preprocessor"`. Without it, the defaults are square images, 64 channels
            per attention head, and otherwise those of the model type.
        source: name of the source in messages.
        given: fields of `ViTSpec` from the user, which provide `num_heads` without a
            config.

    Raises:
        ValueError: if the model, or a setting of it, is not supported.
    """
    layers, tokens = _layers(arrays)
    config = _image_config(config)
    kind = config.get("model_type", _guess_type(layers, tokens))
    if kind not in _FAMILIES:
        raise ValueError(
            f"{source} has the model_type {kind!r:.80}, which is not supported; "
            f"supported are {_SUPPORTED}."
        )
    family = _FAMILIES[kind]
    is_gated = any(name.endswith(_GATES) for name in layers)
    activation = "swiglu" if is_gated else _activation(config, family, source)
    projects = _IMAGE_PROJECTION in layers
    depth = config.get("num_hidden_layers")
    weights = rename(layers, _LAYERS, _BLOCK_LAYERS, _BLOCK, depth, source, _SUPPORTED)
    for path, lacks_bias in ((PROJECTION, kind == "clip"), (HEAD, projects)):
        if lacks_bias:
            weights[path] += [np.zeros(weights[path][0].shape[-1], "float32")]
    channels, dim = weights[PROJECTION][0].shape[-2:]
    if config.get("hidden_size", dim) != dim:
        raise ValueError(
            f"{source} has tokens of {dim} channels, but its config has hidden_size="
            f"{format_value(config['hidden_size'])}; use the config of this model."
        )
    return make_content(
        source,
        weights,
        tokens,
        image_size=_image_size(config, source),
        class_names=None if projects else _class_names(config, weights),
        num_heads=_num_heads(config, given or {}, dim, source),
        epsilon=config.get("layer_norm_eps", family.epsilon),
        activation=activation,
        layer_scale=(
            config.get("layerscale_value", 1.0)
            if "block_0/layer_scale" in weights
            else None
        ),
        pooling=_pooling(weights, family, projects, source),
        classifier_activation=None if projects else "softmax",
        **_normalization(config, family, channels),
    )


def _layers(arrays):
    """Returns the layers and the tokens by their names in the Vision Transformer."""
    prefix = next(filter(None, map(_PATCHES.fullmatch, arrays)))[1]
    layers, tokens = {}, {}
    for name in sorted(arrays, reverse=True):  # weights before biases
        array, name = arrays[name], name.removeprefix(prefix)
        layer = re.sub(r"\.(weight|bias|lambda1)$", "", name)
        if layer in _TOKENS:
            tokens[_TOKENS[layer]] = array
        elif not _IGNORED.match(name):
            layers.setdefault(layer, []).append(_with_keras_axes(array))
    return layers, tokens


def _with_keras_axes(array):
    """Transposes a PyTorch kernel, `(out, in)` or `(out, in, height, width)`."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _image_config(config):
    """Returns the config of the image tower, or the config itself."""
    config = dict(config or {})
    config |= config.get("vision_config") or {}
    if "model_type" in config:
        config["model_type"] = str(config["model_type"]).removesuffix("_vision_model")
    return config


def _guess_type(layers, tokens):
    """Guesses the model type from the names of the weights."""
    if "embeddings.patch_embedding" in layers:
        return "clip" if "class_token" in tokens else "siglip"
    if any("layer_scale1" in name for name in layers):
        return "dinov2"
    return "deit" if "distillation_token" in tokens else "vit"


def _activation(config, family, source):
    name = config.get("hidden_act")
    if name is None:
        return family.activation
    if str(name) not in _ACTIVATIONS:
        raise ValueError(
            f"{source} has hidden_act={format_value(name)}, which is not supported; "
            f"supported are {', '.join(_ACTIVATIONS)}."
        )
    return _ACTIVATIONS[name]


def _image_size(config, source):
    """Returns `(height, width)` from the config, or `None`."""
    size = config.get("image_size")
    if size is None:
        return None
    sides = items(size, most=2) or [size, size]
    return [whole_number(f"{source}: image_size", side) for side in sides]


def _num_heads(config, given, dim, source):
    if "model_type" in config:
        return config.get("num_attention_heads", 12)  # the default of all these models
    if "num_heads" in given:
        return given["num_heads"]
    heads = _HEADS.get(dim, dim // 64)
    if dim not in _HEADS and dim % 64:
        raise ValueError(
            f"{source} has no config.json, so its number of heads is unknown; put the "
            f"file beside it or pass num_heads."
        )
    return heads


def _pooling(weights, family, projects, source):
    if HEAD not in weights:
        return family.pooling
    if DISTILLATION_HEAD in weights:
        return "distilled"
    if projects:
        return "token"
    if family.classifier_pooling is None:
        raise ValueError(
            f"{source} classifies the mean of tokens without a last norm, which is not "
            "supported; load it without its classifier."
        )
    return family.classifier_pooling


def _normalization(config, family, channels) -> dict[str, Any]:
    """Returns the normalization of images of values 0-1 as fields of a spec."""
    processor = config.get("preprocessor") or {}
    mean, std = (processor.get(f"image_{each}") for each in ("mean", "std"))
    if processor.get("do_normalize") is False:
        mean, std = 0, 1
    elif mean is None or std is None:
        if channels != len(family.mean):
            return {"include_preprocessing": False}
        mean, std = family.mean, family.std
    factor = processor.get("rescale_factor") or 1 / 255
    scale = 255 if processor.get("do_rescale") is False else round(255 * factor, 9)
    return {
        field: tuple(
            float(each) / scale for each in items(values) or [values] * channels
        )
        for field, values in (("mean", mean), ("std", std))
    }


def _class_names(config, weights):
    """Returns the class names if they are distinct, else `None`."""
    labels = config.get("id2label")
    if HEAD not in weights or not isinstance(labels, dict):
        return None
    numbers = range(weights[HEAD][0].shape[-1])
    names = [labels.get(i, labels.get(str(i))) for i in numbers]
    if names == [f"LABEL_{i}" for i in numbers]:
        return None
    with contextlib.suppress(ValueError):
        return check_names(names)
    return None
