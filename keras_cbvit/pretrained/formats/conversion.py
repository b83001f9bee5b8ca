"""Converts the layers of another library: names by tables, sizes by shapes."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_cbvit.arguments import format_value
from keras_cbvit.models.spec import ViTSpec
from keras_cbvit.models.vision_transformer import HEAD, PATCHES, TOKENS
from keras_cbvit.pretrained.formats.content import Content

PROJECTION = f"{PATCHES}/projection"
_OPTIONAL = ("pre_norm", "head", "layer_scale")  # ends of paths

Layers = dict[str, list[np.ndarray]]
"""Weights by layer name, with Keras's axes: `[kernel, bias]` and so on."""
Names = Mapping[str, Sequence[str | Sequence[str]]]
"""Alternative names of another library's layers, by our paths. A sequence of names
stands for layers whose outputs ours concatenates."""


def rename(
    layers: Layers,
    names: Names,
    block_names: Names,
    block: re.Pattern,
    depth: int | None,
    source: str,
    supported: str,
) -> Layers:
    """Renames the layers of another library to our paths.

    Args:
        layers: layers by the library's names.
        names: the library's names of the layers outside of the blocks.
        block_names: the library's names of the layers of a block.
        block: pattern of the prefix of a block's layers; its only group is the index of
            the block.
        depth: number of blocks; `None` to infer it from the indices.
        source: name of the source in messages.
        supported: the supported models, for messages.

    Raises:
        ValueError: if a layer is unexpected or missing, or has weights that are not
            finite.
    """
    left = dict(layers)
    numbers = {match[0]: int(match[1]) for match in map(block.match, left) if match}
    blocks = sorted(numbers, key=numbers.__getitem__)
    if depth is None:
        depth = 1 + max(numbers.values(), default=0)
    if len(blocks) != depth:
        raise ValueError(
            f"{source} has the weights of {len(blocks)} blocks, but must have those of "
            f"{format_value(depth)}."
        )
    found = {path: _take(left, "", choices) for path, choices in names.items()}
    for i, start in enumerate(blocks):
        for path, choices in block_names.items():
            found[f"block_{i}/{path}"] = _take(left, start, choices)
    if left:
        raise ValueError(
            f"{source} has {min(left):.80}, which is not a layer of a supported model; "
            f"supported are {supported}."
        )
    for path, arrays in found.items():
        if not arrays and not path.endswith(_OPTIONAL):
            raise ValueError(f"{source} has no weights for the layer {path}.")
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError(
                f"{source} has weights for the layer {path} that are not finite."
            )
    return {path: arrays for path, arrays in found.items() if arrays}


def _take(left, start, choices):
    """Removes and returns the layer with one of the names; empty if none matches."""
    for choice in choices:
        names = [choice] if isinstance(choice, str) else choice
        parts = [left.pop(f"{start}{name}", []) for name in names]
        if any(parts):
            return [
                np.concatenate([part[i] for part in parts if i < len(part)], axis=-1)
                for i in range(max(map(len, parts)))
            ]
    return []


def make_content(
    source: str,
    weights: Layers,
    tokens: Mapping[str, np.ndarray],
    image_size: Sequence[int] | None = None,
    class_names: tuple[str, ...] | None = None,
    **fields: Any,
) -> Content:
    """Makes the content of a plain Vision Transformer from renamed weights.

    Args:
        source: name of the source in messages.
        weights: weights by our names, without those of the tokens. The patch kernel has
            shape `(patch_size, patch_size, channels, hidden_dim)`.
        tokens: optional `"class_token"`, `"distillation_token"` and
            `"register_tokens"`, and `"position_embedding"` of all tokens but the
            registers; each of any rank, with `hidden_dim` as its last axis.
        image_size: `(height, width)` in pixels. Defaults to a square.
        class_names: the names of the classes.
        **fields: fields of `ViTSpec` that cannot be inferred from shapes.

    Raises:
        ValueError: if the shapes are inconsistent or a field is invalid.
    """
    kernel, *bias = weights[PROJECTION]
    if kernel.ndim != 4 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(
            f"{source} has patches of {'x'.join(map(str, kernel.shape[:-2]))} pixels, "
            "but they must be square."
        )
    side, _, channels, dim = kernel.shape
    grid = image_size and [size // side for size in image_size]
    token_weights, (rows, columns) = _embed(source, tokens, dim, grid)
    hidden = weights["block_0/mlp/fc1"][0].shape[-1]
    hidden //= 2 if fields.get("activation") == "swiglu" else 1
    registers = tokens.get("register_tokens")
    found = {
        "input_shape": (rows * side, columns * side, channels),
        "patch_size": side,
        "hidden_dim": dim,
        "depth": sum(path.endswith("/mlp/fc1") for path in weights),
        "mlp_ratio": hidden / dim if hidden % dim else hidden // dim,
        "class_token": "class_token" in tokens,
        "distillation_token": "distillation_token" in tokens,
        "num_register_tokens": 0 if registers is None else registers.shape[-2],
        "prefix_position_embedding": registers is None or not registers.size,
        "qkv_bias": len(weights["block_0/attention/qkv"]) == 2,
        "pre_norm": "pre_norm" in weights,
        "broadcast": "none",
        "classes": weights[HEAD][0].shape[-1] if HEAD in weights else None,
    }
    try:
        spec = ViTSpec(**found, **fields)
    except ValueError as error:
        raise ValueError(f"{source} is not a valid model: {error}") from error
    weights = {
        **weights,
        PROJECTION: [kernel.reshape(-1, dim), *bias],
        TOKENS: token_weights,
    }
    return Content(source, weights, spec, class_names)


def _embed(source, tokens, dim, grid):
    """Returns the weights of the token embedding, and its grid of patches."""
    arrays = {
        name: array.reshape(1, -1, dim) for name, array in tokens.items() if array.size
    }
    position = arrays.pop("position_embedding", np.zeros((1, 0, dim)))
    prefix = len(arrays.keys() - {"register_tokens"})
    patches = position.shape[1] - prefix
    rows, columns = grid or [math.isqrt(max(patches, 0))] * 2
    if not rows * columns == patches > 0:
        raise ValueError(
            f"{source} has positions for {max(patches, 0)} patches, not for "
            f"{rows}x{columns}."
        )
    if "register_tokens" in arrays:
        # Registers have no position, so in our model no prefix token has one: the
        # position of the class token is added to the token itself.
        arrays["class_token"] = arrays["class_token"] + position[:, :prefix]
        position = position[:, prefix:]
    order = ("class_token", "distillation_token", "register_tokens")
    tokens = [arrays[name] for name in order if name in arrays]
    return [*tokens, position], (rows, columns)
