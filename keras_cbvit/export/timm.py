"""Plain Vision Transformers for timm: a state dict and the hub's configuration."""

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
# timm's entry points for what no argument says that JSON can keep.
_DISTILLED, _GATED = "deit_base_distilled_patch16_224", "vit_giant_patch14_dinov2"
_BY_EPSILON = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}
_POOLINGS = {"token": "token", "distilled": "token", "avg": "avg", None: ""}
_PLAIN = {"uniform_head": "none", "squeeze_excitation": False, "extra_branch": "none"}


def to_timm(model: VisionTransformer) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The weights of a plain Vision Transformer by timm's names, and a configuration.

    timm builds a model of the configuration that takes the weights with `strict=True`
    and gives the same logits of images that are normalized by `mean` and `std`. A CB_S
    model whose Λ are all 0 is plain.

    Args:
        model: a `VisionTransformer`.

    Returns:
        The state dict, of float32 arrays, and the `config.json` of timm's hub.

    Raises:
        ValueError: if timm has no such model: one with CB or another of the paper's
            ablations, or of an epsilon, a pooling or tokens that none of timm's has.
    """
    check_vision_transformer("model", model)
    spec = model.spec
    architecture = _architecture(spec)
    weights, names = _plain_weights(model), timm_names.layer_names(spec)
    if spec.pre_norm:
        # timm's patches have no bias then. It is the same as a part of the position.
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
                f"{path} is quantized or has LoRA, which timm has not; "
                "merge_lora(model) brings LoRA into the kernels."
            )
        for name, array in zip(theirs, found, strict=True):
            array = timm_names.to_timm(name, array, spec.patch_size)
            state[name] = np.ascontiguousarray(array, "float32")
    if weights:
        raise _refusal(next(iter(weights)))
    return state, _config(model, architecture)


def save_for_timm(model: VisionTransformer, folder: str | os.PathLike) -> None:
    """Writes a plain Vision Transformer as a folder in the layout of timm's hub.

    `timm.create_model(f"local-dir:{folder}", pretrained=True)` loads it, and so does
    `ViTCB(weights=folder)`. The folder appears with all its files or not at all.

    Args:
        model: a `VisionTransformer`, see `to_timm`.
        folder: to write; it must not exist, or be empty.

    Raises:
        ValueError: if timm has no such model.
        FileExistsError: if there is something in the folder.
        ImportError: without the package `safetensors`.
        OSError: if it cannot be written.
    """
    try:
        from safetensors.numpy import save
    except ImportError as error:
        raise ImportError(
            "Files for timm are written by safetensors: pip install safetensors."
        ) from error
    with whole_folder(folder) as complete:
        state, config = to_timm(model)
        write(complete / WEIGHTS, save(state, {"format": "pt"}))
        write(complete / CONFIG, json.dumps(config, indent=2).encode())


def _refusal(what):
    return ValueError(f"The model has {what}, which no Vision Transformer of timm has.")


def _architecture(spec):
    """The entry point of timm that builds a model of a spec, given its arguments."""
    if spec.broadcast == "cb":
        raise ValueError(
            "The model has Context Broadcasting, which timm does not have; only plain "
            "models, and those of CB_S whose Λ are all 0, can be written for it."
        )
    for field, value in _PLAIN.items():
        if (found := getattr(spec, field)) != value:
            raise _refusal(f"{field}={found!r}")
    if spec.pooling not in _POOLINGS:
        raise _refusal(f"pooling={spec.pooling!r}")
    if spec.epsilon not in _BY_EPSILON:
        raise _refusal(f"epsilon={spec.epsilon}")
    special = {"distillation_token": spec.distillation_token}
    special["activation='swiglu'"] = spec.activation == "swiglu"
    special["epsilon=1e-05"] = spec.epsilon == 1e-5
    kinds = [what for what, there in special.items() if there]
    if len(kinds) > 1:
        raise _refusal(" with ".join(kinds))
    if spec.distillation_token:
        if spec.pooling != "distilled":
            raise _refusal(f"a distillation token with pooling={spec.pooling!r}")
        if spec.num_register_tokens:
            raise _refusal("a distillation token with register tokens")
        if not spec.prefix_position_embedding:
            raise _refusal("a distillation token without a position embedding")
        return _DISTILLED
    return _GATED if spec.activation == "swiglu" else _BY_EPSILON[spec.epsilon]


def _plain_weights(model):
    """The weights by the paths of their layers, without the Λ, which must be 0."""
    weights = {}
    for name, weight in model.weights_by_name().items():
        path, value = name.rpartition("/")[0], keras.ops.convert_to_numpy(weight)
        if not path.endswith(CHANNEL_SCALE):
            weights.setdefault(path, []).append(value.astype("float32"))
        elif value.any():
            raise ValueError(
                f"{name} is not 0: the model broadcasts context, which timm's models "
                "do not."
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
        # timm leaves LayerScale out where this is 0, whatever its weights.
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
    """The ratio of which timm's `int(dim * ratio)` makes the channels of the MLP."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)
