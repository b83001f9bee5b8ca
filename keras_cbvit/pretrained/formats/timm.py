"""State dicts of timm and DeiT."""

import re

import numpy as np

from keras_cbvit.models.spec import ViTSpec
from keras_cbvit.models.vision_transformer import HEAD, PATCHES, TOKENS
from keras_cbvit.pretrained.formats import Content

# Our layers with timm's, and the weights of each in the order of `Content`.
_DENSE, _NORM = ("weight", "bias"), ("weight", "bias")
_LAYERS = {
    f"{PATCHES}/projection": ("patch_embed.proj", _DENSE),
    "norm": ("norm", _NORM),
    HEAD: ("head", _DENSE),
}
_BLOCK_LAYERS = {
    "norm1": ("norm1", _NORM),
    "attention/qkv": ("attn.qkv", _DENSE),
    "attention/projection": ("attn.proj", _DENSE),
    "layer_scale": ("ls1", ("gamma",)),
    "norm2": ("norm2", _NORM),
    "mlp/fc1": ("mlp.fc1", _DENSE),
    "mlp/fc2": ("mlp.fc2", _DENSE),
    "mlp/layer_scale": ("ls2", ("gamma",)),
}
_TOKENS = ("cls_token", "reg_token", "pos_embed")


def read(state_dict, spec: ViTSpec) -> Content:
    """The weights in a state dict by our names.

    Args:
        state_dict: timm's names, such as `"blocks.0.attn.qkv.weight"`, with NumPy
            arrays or torch tensors.
        spec: the spec of the model that is to get them. The content's own is the same
            with what a state dict is always of: a plain ViT whose class token is
            classified.

    Raises:
        ValueError: if it is no state dict, or has weights of other names or that are
            not finite.
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
    weights = {}
    for path, (name, kinds) in _names(left).items():
        arrays = [left.pop(f"{name}.{kind}", None) for kind in kinds]
        weights[path] = [_from_timm(each) for each in arrays if each is not None]
    tokens = [left.pop(name) for name in _TOKENS if name in left]
    if tokens:
        weights[TOKENS] = tokens
    weights |= {name: [array] for name, array in left.items()}  # of other names
    for path, arrays in weights.items():
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError(f"{path} of the state dict is not finite.")
    plain = spec.replace(
        broadcast="none", pooling=spec.pooling and "token", squeeze_excitation=False
    )
    return Content("the state dict", weights, plain)


def _names(state_dict):
    """Our layers that a state dict has weights of, with timm's."""
    found = {}
    for name in state_dict:
        block = re.match(r"blocks\.(\d+)\.", name)
        layers = _BLOCK_LAYERS if block else _LAYERS
        ours, theirs = (f"block_{block[1]}/", block[0]) if block else ("", "")
        for path, (layer, kinds) in layers.items():
            if name.rpartition(".")[0] == theirs + layer:
                found[ours + path] = theirs + layer, kinds
    return found


def _to_numpy(array):
    if hasattr(array, "detach"):  # a torch tensor; NumPy has no bfloat16
        array = array.detach().cpu().float()
    return np.asarray(array)


def _from_timm(array):
    """timm's axes in our order: kernels are (in, out), images channels last."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
    return array.T if array.ndim == 2 else array
