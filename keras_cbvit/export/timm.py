"""Exports plain Vision Transformers to timm: a state dict and a configuration."""

import json
import math
import os
from typing import Any

import keras
import numpy as np

from keras_cbvit.files import whole_folder, write
from keras_cbvit.models.segmentation import check_vision_transformer
from keras_cbvit.models.vision_transformer import PATCHES, TOKENS, VisionTransformer
from keras_cbvit.pretrained.formats import timm_names
from keras_cbvit.pretrained.loading import CHANNEL_SCALE

WEIGHTS, CONFIG = "model.safetensors", "config.json"
# timm's entry points for settings that its JSON arguments cannot express.
_DISTILLED, _GATED = "deit_base_distilled_patch16_224", "vit_giant_patch14_dinov2"
_BY_EPSILON = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}
_POOLINGS = {"token": "token", "distilled": "token", "avg": "avg", None: ""}
_PLAIN = {"uniform_head": "none", "squeeze_excitation": False, "extra_branch": "none"}


def to_timm(model: VisionTransformer) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Converts a plain Vision Transformer to timm's state dict and configuration.

    timm builds a model from the configuration that loads the weights with `strict=True`
    and predicts the same logits for images normalized with `mean` and `std`. A CB_S
    model whose Λ are all 0 counts as plain.

    Args:
        model: a `VisionTransformer`.

    Returns:
        The state dict of float32 arrays, and the `config.json` of timm on the Hub.

    Raises:
        ValueError: if timm cannot build the model, for instance with CB or another of
            the paper's ablations, or an unsupported epsilon, pooling or set of tokens.
    """
    check_vision_transformer("model", model)
    spec = model.spec
    architecture = _architecture(spec)
    weights, names = _plain_weights(model), timm_names.layer_names(spec)
    if spec.pre_norm:
        # timm's patch embedding has no bias then; the position embedding takes it.
        kernel, bias = weights[f"{PATCHES}/projection"]
        weights[f"{PATCHES}/projection"] = [kernel]
        names[f"{PATCHES}/projection"] = [timm_names.KERNEL]
        *tokens, position = weights[TOKENS]
        prefix = spec.num_prefix_tokens if spec.prefix_position_embedding else 0
        has_bias = np.arange(position.shape[1])[:, None] >= prefix
        weights[TOKENS] = [*tokens, position + bias * has_bias]
    state = {}
    for path, theirs in names.items():
        found = weights.pop(path)
        if len(found) != len(theirs):
            raise ValueError(
                f"{path} is quantized or has LoRA, which timm does not support; call "
                "merge_lora(model) first."
            )
        for name, array in zip(theirs, found, strict=True):
            array = timm_names.to_timm(name, array, spec.patch_size)
            state[name] = np.ascontiguousarray(array, "float32")
    if weights:
        raise _unsupported(next(iter(weights)))
    return state, _config(model, architecture)


def save_for_timm(model: VisionTransformer, folder: str | os.PathLike) -> None:
    """Saves a plain Vision Transformer as a folder for timm.

    `timm.create_model(f"local-dir:{folder}", pretrained=True)` and
    `ViTCB(weights=folder)` load it. The folder is written atomically.

    Args:
        model: a `VisionTransformer`, see `to_timm`.
        folder: the folder to write; must not exist, or be empty.

    Raises:
        ValueError: if timm cannot build the model.
        FileExistsError: if the folder is not empty.
        ImportError: if the package `safetensors` is not installed.
        OSError: if the folder cannot be written.
    """
    try:
        from safetensors.numpy import save
    except ImportError as error:
        raise ImportError(
            "save_for_timm requires the package safetensors; run pip install "
            "safetensors."
        ) from error
    with whole_folder(folder) as complete:
        state, config = to_timm(model)
        write(complete / WEIGHTS, save(state, {"format": "pt"}))
        write(complete / CONFIG, json.dumps(config, indent=2).encode())


def _unsupported(what):
    return ValueError(
        f"The model has {what}, which timm's Vision Transformers do not support."
    )


def _architecture(spec):
    """Returns the entry point of timm that builds a spec, given its arguments."""
    if spec.broadcast == "cb":
        raise ValueError(
            "The model has Context Broadcasting, which timm does not support; only "
            "plain models, and CB_S models whose Λ are all 0, can be exported to it."
        )
    for field, value in _PLAIN.items():
        if (found := getattr(spec, field)) != value:
            raise _unsupported(f"{field}={found!r}")
    if spec.pooling not in _POOLINGS:
        raise _unsupported(f"pooling={spec.pooling!r}")
    if spec.epsilon not in _BY_EPSILON:
        raise _unsupported(f"epsilon={spec.epsilon}")
    special = {"distillation_token": spec.distillation_token}
    special["activation='swiglu'"] = spec.activation == "swiglu"
    special["epsilon=1e-05"] = spec.epsilon == 1e-5
    kinds = [what for what, is_used in special.items() if is_used]
    if len(kinds) > 1:
        raise _unsupported(" with ".join(kinds))
    if spec.distillation_token:
        if spec.pooling != "distilled":
            raise _unsupported(f"a distillation token with pooling={spec.pooling!r}")
        if spec.num_register_tokens:
            raise _unsupported("a distillation token with register tokens")
        if not spec.prefix_position_embedding:
            raise _unsupported("a distillation token without a position embedding")
        return _DISTILLED
    return _GATED if spec.activation == "swiglu" else _BY_EPSILON[spec.epsilon]


def _plain_weights(model):
    """Returns the weights by layer path, without the Λ, which must be 0."""
    weights = {}
    for name, weight in model.weights_by_name().items():
        path, value = name.rpartition("/")[0], keras.ops.convert_to_numpy(weight)
        if not path.endswith(CHANNEL_SCALE):
            weights.setdefault(path, []).append(value.astype("float32"))
        elif value.any():
            raise ValueError(
                f"{name} is not 0, so the model broadcasts context, which timm does "
                "not support."
            )
    return weights


def _config(model, architecture):
    spec = model.spec
    rows, columns = spec.grid
    size = [rows * spec.patch_size, columns * spec.patch_size]
    channels = spec.input_shape[2]
    gated = spec.activation == "swiglu"
    hidden = spec.mlp_dim * (2 if gated else 1)
    arguments = {
        "img_size": size,
        "dynamic_img_size": None in spec.input_shape,
        "patch_size": spec.patch_size,
        "in_chans": channels,
        "num_classes": spec.classes or 0,
        "global_pool": _POOLINGS[spec.pooling],
        "embed_dim": spec.hidden_dim,
        "depth": spec.depth,
        "num_heads": spec.num_heads,
        "mlp_ratio": _ratio(hidden, spec.hidden_dim),
        "qkv_bias": spec.qkv_bias,
        "qk_norm": spec.qk_norm,
        # timm builds no LayerScale if this is 0.
        "init_values": 0 if spec.layer_scale is None else spec.layer_scale or 1e-5,
        "class_token": spec.class_token,
        "no_embed_class": not spec.prefix_position_embedding,
        "reg_tokens": spec.num_register_tokens,
        "pre_norm": spec.pre_norm,
        "fc_norm": spec.fc_norm,
        **({} if gated else {"act_layer": spec.activation}),
    }
    preprocessing = {"mean": spec.mean, "std": spec.std}
    if not spec.include_preprocessing:
        preprocessing = {"mean": [0.0] * channels, "std": [1.0] * channels}
    distilled = spec.pooling == "distilled"
    return {
        "architecture": architecture,
        "num_classes": spec.classes or 0,
        "num_features": spec.hidden_dim,
        "global_pool": _POOLINGS[spec.pooling],
        **({"label_names": list(model.class_names)} if model.class_names else {}),
        "model_args": arguments,
        "pretrained_cfg": {
            "num_classes": spec.classes or 0,
            "input_size": [channels, *size],
            "fixed_input_size": None not in spec.input_shape,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            **{key: list(values) for key, values in preprocessing.items()},
            "first_conv": "patch_embed.proj",
            "classifier": ["head", "head_dist"] if distilled else "head",
        },
    }


def _ratio(hidden, dim):
    """Returns a ratio for which timm's `int(dim * ratio)` equals `hidden`."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)
