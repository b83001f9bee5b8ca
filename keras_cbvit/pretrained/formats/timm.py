"""Reads Vision Transformers of timm and DeiT: state dicts and live models.

Most of the spec follows from the names and shapes of the weights; the rest comes from
timm's configuration on the Hub or from the live model. For weights without either, the
rest comes from the user's arguments, or else from DeiT's conventions.

Not supported and ignored: the attention pooling of SigLIP's models with its head, and
the decoder and mask token of self-supervised models.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_cbvit.arguments import field_value
from keras_cbvit.models.spec import IMAGENET_MEAN, IMAGENET_STD, ViTSpec
from keras_cbvit.pretrained.formats.content import Content
from keras_cbvit.pretrained.formats.timm_names import (
    BIAS,
    KERNEL,
    POSITION,
    from_timm,
    layer_names,
)
from keras_cbvit.pretrained.formats.timm_others import OTHERS, OTHERS_BY_NAME

_BLOCK = re.compile(r"blocks\.(\d+)\.")
_FC1, _FC2 = "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight"

# Names in the original files of DeiT-III and DINOv2, and timm's names.
_ORIGINALS = {
    r"\.gamma_(\d)$": r".ls\1.gamma",
    r"\.mlp\.w12\.": ".mlp.fc1.",
    r"\.mlp\.w3\.": ".mlp.fc2.",
}
_IGNORED = re.compile(r"mask_token$|decoder_|attn_pool\.")
_MEAN_OF_ALL = "a mean over all tokens, prefix tokens included"

# Settings of timm's entry points that shapes do not reveal. Most have 64 channels per
# head.
_HEAD_CHANNELS = {1152: 72, 1280: 80, 1408: 88, 1664: 104}  # by `hidden_dim`
_HEAD_CHANNELS_BY_NAME = {"test_vit": 32, "base_patch16_gap_224": 48, "giantopt": 96}
# Of entry points whose width an argument overrides.
_HEADS_BY_NAME = {"tiny": 3, "small": 6, "base": 12, "large|huge|gigantic|giant": 16}
_EPSILON, _EPSILON_BY_NAME = 1e-6, {"_clip_": 1e-5}
_ACTIVATIONS_BY_NAME = {
    "quickgelu": "quick_gelu",
    "base_patch32_siglip|large_patch16_siglip_(gap_)?512": "gelu_tanh",
    "so400m_patch16_siglip|giantopt": "gelu_tanh",
}
# timm's names and classes of activations.
_ACTIVATIONS = {
    **{name: name for name in ("gelu", "gelu_tanh", "quick_gelu", "swiglu")},
    "silu": "swiglu",
    "GELU": "gelu",
    "GELUTanh": "gelu_tanh",
    "QuickGELU": "quick_gelu",
    "SiLU": "swiglu",
}
_POOLINGS = {"token": "token", "avg": "avg", "": None}
# Fields that the user may set if the source does not.
_OPEN = ("num_heads", "epsilon", "activation", "mean", "std")


def recognize(names: Iterable[str]) -> bool:
    """Returns whether the names are those of a Vision Transformer, or similar."""
    names = set(names)
    return KERNEL in names and any(name.startswith("blocks.0.") for name in names)


def read(
    arrays: Mapping[str, Any],
    config: Mapping[str, Any] | None,
    source: str,
    given: Mapping[str, Any] | None = None,
) -> Content:
    """Reads a state dict.

    Args:
        arrays: NumPy arrays or torch tensors by timm's names, such as
            `"blocks.0.attn.qkv.weight"`, or by those in the files of DeiT, DINO, DINOv2
            and MAE.
        config: the `config.json` of timm on the Hub, or `None`.
        source: name of the source in messages.
        given: fields of `ViTSpec` from the user. `num_heads`, `epsilon`, `activation`,
            `mean`, `std` and the grid of patches are used if the configuration does not
            specify them.

    Raises:
        ValueError: if the network is not supported, a weight is not finite, or the
            number of heads or the grid of patches is unknown.
    """
    arrays = _timm_names(arrays, source)
    settings = _config_settings(config or {}, arrays, source)
    settings = {key: value for key, value in settings.items() if value is not None}
    settings = _user_settings(given or {}, arrays) | settings
    return _content(arrays, settings, source)


def from_model(model: Any) -> Content:
    """Reads a live `timm.models.VisionTransformer`.

    Raises:
        ValueError: if the model, or a setting of it, is not supported.
    """
    # Only models from `timm.create_model` have the attribute.
    kind, pretrained = (
        type(model).__name__,
        getattr(model, "pretrained_cfg", None) or {},
    )
    source = f"timm's {pretrained.get('architecture') or kind}"
    if kind not in ("VisionTransformer", "VisionTransformerDistilled"):
        raise ValueError(f"{source} is a {kind}, not a plain Vision Transformer.")
    arrays = _timm_names(model.state_dict(), source)
    block = model.blocks[0]
    if type(block).__name__ != "Block":
        raise _unsupported(source, f"blocks of the class {type(block).__name__}")
    if model.pool_include_prefix and model.global_pool == "avg":
        raise _unsupported(source, _MEAN_OF_ALL)
    activation = type(block.mlp.act).__name__
    if getattr(block.mlp.act, "approximate", "none") == "tanh":
        activation = "GELUTanh"
    if getattr(block.mlp, "gate_last", False):
        raise _unsupported(source, "a gated MLP that is not SwiGLU")
    settings = {
        **_preprocessing(pretrained),
        "num_heads": block.attn.num_heads,
        "epsilon": block.norm1.eps,
        "activation": activation,
        "global_pool": model.global_pool,
        "img_size": model.patch_embed.img_size,
    }
    return _content(arrays, settings, source)


def _timm_names(arrays, source):
    """Returns the weights by timm's names, without ignored ones.

    Raises a ValueError if the network is not supported.
    """
    for pattern, what in OTHERS.items():
        if any(re.search(pattern, name) for name in arrays):
            raise _unsupported(source, what)
    ignored = {name for name in arrays if _IGNORED.match(name)}
    if any(name.startswith("attn_pool.") for name in ignored):
        ignored |= {name for name in arrays if name.startswith("head.")}
    found = {}
    for name in arrays.keys() - ignored:
        array = _to_numpy(arrays[name])
        if not np.isfinite(array).all():
            raise ValueError(f"{name} of {source} is not finite.")
        for pattern, replacement in _ORIGINALS.items():
            name = re.sub(pattern, replacement, name)
        found[name] = array
    if "register_tokens" in found:  # DINOv2, whose class token has a position
        found["reg_token"] = found.pop("register_tokens")
        found["cls_token"] = found["cls_token"] + found[POSITION][:, :1]
        found[POSITION] = found[POSITION][:, 1:]
    _check_parts(found, source)
    return found


def _check_parts(arrays, source):
    """Raises a ValueError if weights that every ViT has are missing."""
    if POSITION not in arrays:
        raise _unsupported(source, "no learned position embedding")
    if not {"norm.weight", "fc_norm.weight"} & arrays.keys():
        raise _unsupported(source, "no norm after the last block")
    if "blocks.0.norm1.bias" not in arrays:
        raise _unsupported(source, "norms without bias (RMSNorm)")
    for name, rank in {KERNEL: 4, POSITION: 3, _FC1: 2, _FC2: 2}.items():
        if np.ndim(arrays.get(name, 0)) != rank:
            raise ValueError(f"{source} has no {name} with {rank} axes.")
    if len(set(arrays[KERNEL].shape[2:])) > 1:
        raise _unsupported(source, f"patches of {arrays[KERNEL].shape[2:]} pixels")


def _unsupported(source, what):
    return ValueError(f"{source} has {what}, which VisionTransformer does not support.")


def _to_numpy(array):
    if hasattr(array, "detach"):  # a torch tensor; NumPy has no bfloat16
        array = array.detach().cpu().float()
    return np.asarray(array)


def _user_settings(given, arrays):
    """Returns the user's settings, unless they are for another width."""
    hidden_dim, _, patch_size, _ = arrays[KERNEL].shape
    if given.get("hidden_dim", hidden_dim) != hidden_dim:
        return {}
    settings = {
        key: field_value(ViTSpec, key, given[key]) for key in _OPEN if key in given
    }
    if "position_grid" in given:
        grid = field_value(ViTSpec, "position_grid", given["position_grid"])
        settings["img_size"] = [side * patch_size for side in grid]
    elif "input_shape" in given:
        wanted = field_value(ViTSpec, "input_shape", given["input_shape"])
        settings["wanted_size"] = wanted[:2]
    return settings


def _config_settings(config, arrays, source):
    """Returns the settings in a configuration and of its architecture."""
    pretrained = config.get("pretrained_cfg") or config
    labels = config.get("label_names") or pretrained.get("label_names")
    settings = _preprocessing({**pretrained, "label_names": labels})
    name, arguments = config.get("architecture"), config.get("model_args") or {}
    if name is None:
        return settings
    if (other := _by_name(OTHERS_BY_NAME, name, None)) is not None:
        raise _unsupported(source, other)
    if arguments.get("pool_include_prefix"):
        raise _unsupported(source, _MEAN_OF_ALL)
    settings |= {
        "num_heads": (
            _by_name(_HEADS_BY_NAME, name, None)
            if "embed_dim" in arguments
            else _usual_heads(arrays, name)
        ),
        "epsilon": _by_name(_EPSILON_BY_NAME, name, _EPSILON),
        "activation": _by_name(_ACTIVATIONS_BY_NAME, name, _usual_activation(arrays)),
        "global_pool": config.get("global_pool"),
    }
    theirs = {
        "num_heads": "num_heads",
        "activation": "act_layer",
        "global_pool": "global_pool",
        "img_size": "img_size",
        "init_values": "init_values",
    }
    return settings | {
        key: arguments[argument]
        for key, argument in theirs.items()
        if arguments.get(argument) is not None
    }


def _preprocessing(pretrained):
    """Returns the settings of images and classes in a `pretrained_cfg`."""
    size, labels = pretrained.get("input_size"), pretrained.get("label_names")
    found = {
        "mean": pretrained.get("mean"),
        "std": pretrained.get("std"),
        "usual_size": size and size[1:],
        "class_names": labels if isinstance(labels, list | tuple) else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _by_name(table, name, default):
    return next((v for key, v in table.items() if re.search(key, name)), default)


def _usual_activation(arrays):
    is_gated = arrays[_FC1].shape[0] == 2 * arrays[_FC2].shape[1]
    return "swiglu" if is_gated else "gelu"


def _usual_heads(arrays, name=""):
    """Returns the usual number of heads for the width; `None` if not a whole number."""
    hidden_dim = arrays[KERNEL].shape[0]
    by_width = _HEAD_CHANNELS.get(hidden_dim, 64)
    channels = _by_name(_HEAD_CHANNELS_BY_NAME, name, by_width)
    return None if hidden_dim % channels else hidden_dim // channels


def _content(arrays, settings, source):
    spec = _spec(arrays, settings, source)
    if spec.pre_norm:  # timm's patch embedding has no bias then
        arrays.setdefault(BIAS, np.zeros(spec.hidden_dim, "float32"))
    names = layer_names(spec)
    known = {name for theirs in names.values() for name in theirs}
    if unknown := sorted(arrays.keys() - known):
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise _unsupported(source, f"the weights {unknown[0]:.80}{more}")
    weights = {}
    for path, theirs in names.items():
        found = [arrays.get(name) for name in theirs]
        if any(array is not None for array in found):
            weights[path] = [None if x is None else from_timm(x) for x in found]
    labels = settings.get("class_names") or ()
    are_names = len({*labels}) == len(labels) == spec.classes
    return Content(source, weights, spec, tuple(labels) if are_names else None, names)


def _spec(arrays, settings, source):
    """Returns the spec, mostly from the names and shapes of the weights."""
    hidden_dim, channels, patch_size, _ = arrays[KERNEL].shape
    tokens = {
        "class_token": "cls_token" in arrays,
        "distillation_token": "dist_token" in arrays,
        "num_register_tokens": np.shape(arrays.get("reg_token", [[]]))[1],
    }
    (rows, columns), positioned = _grid(arrays, settings, sum(tokens.values()), source)
    fc_norm, pre_norm = "fc_norm.weight" in arrays, "norm_pre.weight" in arrays
    has_scale = "blocks.0.ls1.gamma" in arrays
    return ViTSpec(
        input_shape=(rows * patch_size, columns * patch_size, channels),
        patch_size=patch_size,
        hidden_dim=hidden_dim,
        depth=1 + max(int(m[1]) for m in map(_BLOCK.match, arrays) if m),
        num_heads=_num_heads(arrays, settings, source),
        mlp_ratio=arrays[_FC2].shape[1] / hidden_dim,
        **tokens,
        prefix_position_embedding=positioned,
        pre_norm=pre_norm,
        fc_norm=fc_norm,
        qkv_bias="blocks.0.attn.qkv.bias" in arrays,
        qk_norm="blocks.0.attn.q_norm.weight" in arrays,
        activation=_activation(arrays, settings, source),
        layer_scale=settings.get("init_values", 1e-5) if has_scale else None,
        epsilon=settings.get("epsilon", 1e-5 if pre_norm else _EPSILON),  # as in CLIP
        broadcast="none",
        mean=_colors(settings.get("mean", IMAGENET_MEAN), channels),
        std=_colors(settings.get("std", IMAGENET_STD), channels),
        pooling=_pooling(tokens, fc_norm, settings, source),
        classes=arrays["head.weight"].shape[0] if "head.weight" in arrays else None,
    )


def _num_heads(arrays, settings, source):
    hidden_dim = arrays[KERNEL].shape[0]
    if "blocks.0.attn.q_norm.weight" in arrays:
        return hidden_dim // arrays["blocks.0.attn.q_norm.weight"].shape[0]
    found = settings.get("num_heads") or _usual_heads(arrays)
    if found is None:
        raise ValueError(
            f"{source} does not specify its number of heads, and "
            f"hidden_dim={hidden_dim} is not a multiple of the usual 64 channels; pass "
            "num_heads."
        )
    return found


def _activation(arrays, settings, source) -> Any:  # one of the spec's literals
    usual = _usual_activation(arrays)
    found = _ACTIVATIONS.get(settings.get("activation", usual))
    if found is None or (found == "swiglu") != (usual == "swiglu"):
        raise _unsupported(
            source, f"the activation {settings['activation']} in its MLPs"
        )
    return found


def _pooling(tokens, fc_norm, settings, source):
    if tokens["distillation_token"]:
        return "distilled"
    found = settings.get("global_pool")
    if found in (None, "map", "prr"):  # not specified, or ignored
        return "token" if tokens["class_token"] and not fc_norm else "avg"
    if found not in _POOLINGS:
        raise _unsupported(source, f"the pooling {found}")
    return _POOLINGS[found]


def _colors(values, channels):
    """Returns one number per channel: the values, or their mean for each."""
    return values if len(values) == channels else (float(np.mean(values)),) * channels


def _grid(arrays, settings, prefix, source):
    """Returns `(rows, columns)`, and whether the prefix tokens have positions.

    From the size of the images, or else a square.
    """
    positions, patch_size = arrays[POSITION].shape[1], arrays[KERNEL].shape[-1]

    def grid_of(size):
        sides = (size, size) if isinstance(size, int) else size or (None, None)
        known = None not in sides
        return [tuple(side // patch_size for side in sides)] if known else []

    known = grid_of(settings.get("img_size")) + grid_of(settings.get("usual_size"))
    wanted = grid_of(settings.get("wanted_size"))
    counts = (positions - prefix, positions)
    sides = [math.isqrt(max(count, 0)) for count in counts]
    # Not 1x1, which would match too many counts.
    squares = [[(side, side)] if side > 1 else [] for side in sides]
    for grids, allowed in (
        (known, counts),
        (squares[0], counts[:1]),
        (wanted, counts[:1]),
        (squares[1], counts[1:]),
        (wanted, counts),
        ([(1, 1)], counts),
    ):
        for rows, columns in grids:
            if rows * columns in allowed:
                return (rows, columns), rows * columns == counts[0]
    raise ValueError(
        f"{source} has {positions} positions, which do not form a square of patches; "
        "pass the input_shape that it was trained on."
    )
