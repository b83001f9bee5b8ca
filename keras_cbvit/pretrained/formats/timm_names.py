"""timm's names and axes of the weights of a plain Vision Transformer."""

import numpy as np

from keras_cbvit.models.spec import ViTSpec
from keras_cbvit.models.vision_transformer import (
    DISTILLATION_HEAD,
    HEAD,
    PATCHES,
    TOKENS,
)

# timm's modules within a block (`blocks.0.`), by our layer paths.
_BLOCK_LAYERS = {
    "norm1": "norm1",
    "attention/qkv": "attn.qkv",
    "attention/query_norm": "attn.q_norm",
    "attention/key_norm": "attn.k_norm",
    "attention/projection": "attn.proj",
    "layer_scale": "ls1",
    "norm2": "norm2",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
    "mlp/layer_scale": "ls2",
}
KERNEL, BIAS = "patch_embed.proj.weight", "patch_embed.proj.bias"
POSITION = "pos_embed"


def layer_names(spec: ViTSpec) -> dict[str, list[str]]:
    """Returns timm's names of the weights of a plain model, by our layer paths.

    The names are in the order in which a layer creates its weights.
    """
    tokens = {
        "cls_token": spec.class_token,
        "dist_token": spec.distillation_token,
        "reg_token": spec.num_register_tokens,
        POSITION: True,
    }
    names = {
        f"{PATCHES}/projection": [KERNEL, BIAS],
        TOKENS: [name for name, exists in tokens.items() if exists],
    }
    if spec.pre_norm:
        names["pre_norm"] = _parameters("norm_pre")
    for i in range(spec.depth):
        for path, module in _BLOCK_LAYERS.items():
            if theirs := _block_parameters(spec, f"blocks.{i}.{module}"):
                names[f"block_{i}/{path}"] = theirs
    names["norm"] = _parameters("fc_norm" if spec.fc_norm else "norm")
    if spec.classes is not None:
        names[HEAD] = _parameters("head")
        if spec.pooling == "distilled":
            names[DISTILLATION_HEAD] = _parameters("head_dist")
    return names


def from_timm(array: np.ndarray) -> np.ndarray:
    """Converts a weight from timm: kernels to (in, out), images to channels last."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
    return array.T if array.ndim == 2 else array


def to_timm(name: str, array: np.ndarray, patch_size: int) -> np.ndarray:
    """Converts a weight to timm's of this name; the inverse of `from_timm`."""
    if name == KERNEL:
        array = array.reshape(patch_size, patch_size, -1, array.shape[-1])
        return array.transpose(3, 2, 0, 1)
    return array.T if array.ndim == 2 else array


def _block_parameters(spec, module):
    if module.endswith(("ls1", "ls2")):
        return [] if spec.layer_scale is None else [f"{module}.gamma"]
    if module.endswith(("q_norm", "k_norm")) and not spec.qk_norm:
        return []
    weight, bias = _parameters(module)
    return [weight] if module.endswith("qkv") and not spec.qkv_bias else [weight, bias]


def _parameters(module):
    return [f"{module}.weight", f"{module}.bias"]
