"""Weights of timm and DeiT."""

import re

import numpy as np

from keras_cbvit.pretrained.loading import (
    CHANNEL_SCALE,
    refuse_mismatch,
    refuse_other_model,
    weights_by_name,
)

_PARTS = {
    "patch_embedding/projection": "patch_embed.proj",
    "norm": "norm",
    "head": "head",
}
_BLOCK_PARTS = {
    "norm1": "norm1",
    "attention/qkv": "attn.qkv",
    "attention/projection": "attn.proj",
    "norm2": "norm2",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}
_TOKENS = {
    "class_token_and_position/class_token": "cls_token",
    "class_token_and_position/position_embedding": "pos_embed",
}
_KINDS = {"kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}


def load_timm_weights(model, state_dict, allow_other_function=False):
    """Copies the weights of a timm or DeiT Vision Transformer into a model.

    They are those of a plain ViT, whose class token is classified. A CB_S model keeps
    its Λ; with the Λ of 0 that it starts with it gives the plain ViT's predictions
    (the project's reading of section 3.2).

    Args:
        model: a model built by `ViTCB` or one of its sizes. With
            `include_preprocessing=True` it normalises as DeiT does; timm's models of
            the "augreg" family are trained with mean and standard deviation 0.5.
        state_dict: timm's names, such as `"blocks.0.attn.qkv.weight"`, with NumPy
            arrays or torch tensors.
        allow_other_function: whether the model may compute something else with the
            weights: CB, or a head on the mean of the tokens.

    Raises:
        ValueError: if the model is of another kind, quantized or computes something
            else; if a weight is not finite; if a weight is missing, left over
            or of another shape, by name and before anything is copied. To load into
            a model with `include_top=False`, leave out `head.weight` and
            `head.bias`.
    """
    refuse_other_model(model)
    if not hasattr(state_dict, "keys"):
        raise ValueError(
            f"state_dict is a {type(state_dict).__name__}, not weights by name; read a "
            "file with torch.load or safetensors first."
        )
    if "model" in state_dict:
        raise ValueError(
            "state_dict is a whole checkpoint; give its weights, state_dict['model']."
        )
    if any(_is_unknown(name) for name in weights_by_name(model)):
        raise ValueError(
            "The model has weights that a plain ViT does not have, as of quantized "
            "layers or LoRA; load into a model without them."
        )
    targets = {
        _timm_name(name): weight
        for name, weight in weights_by_name(model).items()
        if not name.endswith(CHANNEL_SCALE)
    }
    patch_size = model.get_config()["patch_size"]
    shapes = {
        name: _timm_shape(name, weight.shape, patch_size)
        for name, weight in targets.items()
    }
    refuse_mismatch(
        "the state dict",
        missing=sorted(targets.keys() - state_dict.keys()),
        left_over=sorted(state_dict.keys() - targets.keys()),
        other_shape=sorted(
            f"{name} {tuple(state_dict[name].shape)} for {shape}"
            for name, shape in shapes.items()
            if name in state_dict and tuple(state_dict[name].shape) != shape
        ),
    )
    if not allow_other_function:
        _refuse_other_function(model.get_config())
    arrays = {name: _to_numpy(state_dict[name]) for name in targets}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} of the state dict is not finite.")
    for name, weight in targets.items():
        weight.assign(_from_timm(arrays[name]).reshape(weight.shape))
    model.class_names = None  # those of the head before


def _refuse_other_function(config):
    for key, value in (("broadcast", "cb"), ("pooling", "avg")):
        if config[key] == value:
            raise ValueError(
                "The weights are those of a plain ViT whose class token is classified; "
                f"with {key}={value!r} they compute something else. Build the model "
                "with broadcast=None or 'cbs' and pooling='token', or give "
                "allow_other_function=True."
            )


def _is_unknown(path):
    kind = path.rpartition("/")[2]
    return kind not in (*_KINDS, "scale") and path not in _TOKENS


def _timm_name(path):
    if path in _TOKENS:
        return _TOKENS[path]
    part, _, kind = path.rpartition("/")
    block = re.fullmatch(r"block_(\d+)/(.+)", part)
    if block:
        return f"blocks.{block[1]}.{_BLOCK_PARTS[block[2]]}.{_KINDS[kind]}"
    return f"{_PARTS[part]}.{_KINDS[kind]}"


def _timm_shape(name, shape, patch_size):
    """timm's shape of the array that becomes a weight of this shape."""
    if name == "patch_embed.proj.weight":
        values, hidden_dim = shape
        return (hidden_dim, values // patch_size**2, patch_size, patch_size)
    return shape[::-1] if len(shape) == 2 else tuple(shape)


def _to_numpy(array):
    if hasattr(array, "detach"):  # a torch tensor; NumPy has no bfloat16
        array = array.detach().cpu().float()
    return np.asarray(array)


def _from_timm(array):
    """timm's axes in our order: kernels are (in, out), images channels last."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array
