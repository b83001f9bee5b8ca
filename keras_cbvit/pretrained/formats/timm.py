"""State dicts of timm and DeiT."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_cbvit.models.spec import IMAGENET_MEAN, IMAGENET_STD, ViTSpec
from keras_cbvit.models.vision_transformer import HEAD, PATCHES, TOKENS
from keras_cbvit.pretrained.formats.content import Content

# timm's names of the weights of our layers, in the order of `Content`.
_LAYERS = {
    f"{PATCHES}/projection": ["patch_embed.proj.weight", "patch_embed.proj.bias"],
    TOKENS: ["cls_token", "reg_token", "pos_embed"],
    "norm": ["norm.weight", "norm.bias"],
    HEAD: ["head.weight", "head.bias"],
}
_BLOCK_LAYERS = {
    "norm1": ["norm1.weight", "norm1.bias"],
    "attention/qkv": ["attn.qkv.weight", "attn.qkv.bias"],
    "attention/projection": ["attn.proj.weight", "attn.proj.bias"],
    "layer_scale": ["ls1.gamma"],
    "norm2": ["norm2.weight", "norm2.bias"],
    "mlp/fc1": ["mlp.fc1.weight", "mlp.fc1.bias"],
    "mlp/fc2": ["mlp.fc2.weight", "mlp.fc2.bias"],
    "mlp/layer_scale": ["ls2.gamma"],
}


def recognize(names: Iterable[str]) -> bool:
    """Whether weights have timm's names of a Vision Transformer."""
    return {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= {*names}


def read(
    arrays: Mapping[str, np.ndarray], config: dict[str, Any] | None, source: str
) -> Content:
    """The weights and the spec of named arrays of DeiT's shape.

    Args:
        arrays: by timm's names.
        config: the `config.json` of timm's hub, or `None`.
        source: what messages call them.
    """
    kernel = arrays["patch_embed.proj.weight"]
    hidden_dim, channels, patch_size, _ = kernel.shape
    side = math.isqrt(arrays["pos_embed"].shape[1] - 1) * patch_size
    pretrained = (config or {}).get("pretrained_cfg", {})
    head = arrays.get("head.weight")
    spec = ViTSpec(
        input_shape=(side, side, channels),
        patch_size=patch_size,
        hidden_dim=hidden_dim,
        depth=len([name for name in arrays if name.endswith("attn.qkv.weight")]),
        num_heads=hidden_dim // 64 or 2,
        mlp_ratio=arrays["blocks.0.mlp.fc1.weight"].shape[0] // hidden_dim,
        broadcast="none",
        classes=None if head is None else head.shape[0],
        mean=pretrained.get("mean", IMAGENET_MEAN),
        std=pretrained.get("std", IMAGENET_STD),
    )
    return dataclasses.replace(read_as(arrays, spec), source=source)


def from_model(model: Any) -> Content:
    """The weights and the spec of a live timm model of DeiT's shape."""
    arrays = {name: _to_numpy(each) for name, each in model.state_dict().items()}
    return read(arrays, {"pretrained_cfg": model.pretrained_cfg}, "timm's model")


def read_as(state_dict: Mapping[str, Any], spec: ViTSpec) -> Content:
    """The weights in a state dict by our names.

    Args:
        state_dict: timm's names, such as `"blocks.0.attn.qkv.weight"`, with NumPy
            arrays or torch tensors.
        spec: the spec of the model that is to get them. The content's own is the same
            with what a state dict is always of: a plain ViT whose class token is
            classified.

    Raises:
        ValueError: if it is no state dict, or has weights that are not finite.
    """
    if not hasattr(state_dict, "keys"):
        raise ValueError(
            f"state_dict is a {type(state_dict).__name__}, not weights by name; read a "
            "file with torch.load or safetensors first."
        )
    if "model" in state_dict:
        raise ValueError(
            "state_dict is a whole checkpoint; give its weights, state_dict['model']."
        )
    left = {name: _to_numpy(array) for name, array in state_dict.items()}
    for name, array in left.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} of the state dict is not finite.")
    names, weights = _names(spec), {}
    for path, theirs in names.items():
        arrays = [left.pop(name, None) for name in theirs]
        if any(array is not None for array in arrays):
            weights[path] = [None if x is None else _from_timm(x) for x in arrays]
    weights |= {name: [array] for name, array in left.items()}  # of no layer of ours
    plain = spec.replace(
        broadcast="none", pooling=spec.pooling and "token", squeeze_excitation=False
    )
    return Content("the state dict", weights, plain, names=names)


def _names(spec):
    """timm's names of the weights of a model, by the paths of our layers."""
    names = dict(_LAYERS)
    if not spec.num_register_tokens:
        names[TOKENS] = [name for name in names[TOKENS] if name != "reg_token"]
    for i in range(spec.depth):
        for path, theirs in _BLOCK_LAYERS.items():
            names[f"block_{i}/{path}"] = [f"blocks.{i}.{name}" for name in theirs]
    return names


def _to_numpy(array):
    if hasattr(array, "detach"):  # a torch tensor; NumPy has no bfloat16
        array = array.detach().cpu().float()
    return np.asarray(array)


def _from_timm(array):
    """timm's axes in our order: kernels are (in, out), images channels last."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
    return array.T if array.ndim == 2 else array
