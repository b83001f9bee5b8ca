"""Which arguments a Vision Transformer can be built with."""

import types

from keras_cbvit.layers.arguments import (
    LARGEST,
    activation,
    check_memory,
    choice,
    drop_rate,
    flag,
    items,
    number,
    refuse,
    whole_number,
)
from keras_cbvit.layers.context_broadcast import CONTEXTS
from keras_cbvit.pretrained.architectures import FAMILIES

# Each choice with the places of an encoder block it puts a ContextBroadcast at.
BROADCAST_PLACES = {
    "mlp_end": ("mlp_end",),
    "mlp_front": ("mlp_front",),
    "mlp_mid": ("mlp_mid",),
    "msa_end": ("msa_end",),
    "both": ("msa_end", "mlp_end"),
}
# The deepest transformers have 1000 blocks (DeepNet, 2022); each is a layer to build.
DEEPEST = 1000


def plain_arguments(arguments):
    """Arguments as Python's own values, each checked by itself.

    Args:
        arguments: some of the arguments of a `VisionTransformer` by name.

    Raises:
        ValueError: on the first that cannot work whatever the others are, by name.
    """
    return {name: _CHECKS[name](name, value) for name, value in arguments.items()}


def check_arguments(config):
    """Raises a ValueError that names the first argument that cannot work with others.

    Args:
        config: all arguments of a `VisionTransformer` by name, as `plain_arguments`
            gives them.
    """
    given = types.SimpleNamespace(**config)
    _check_sizes(given)
    _check_images(given)
    _check_blocks(given)
    if given.include_top:
        if given.classes is None:
            refuse("classes", None, "must be a whole number of at least 1.")
        if given.pooling is None:
            refuse(
                "pooling",
                None,
                "leaves the head without a vector to classify; use 'token' or 'avg', "
                "or include_top=False.",
            )


def check_size(config, dtype):
    """Raises a ValueError if the weights would not fit into this machine's memory.

    Args:
        config: as of `check_arguments`.
        dtype: the dtype of the weights.
    """
    names = ("hidden_dim", "depth", "input_shape", "patch_size")
    what = ", ".join(f"{name}={config[name]}" for name in names)
    check_memory(f"A model of {what}", count_weights(config), dtype)


def count_weights(config):
    """How many weights a `VisionTransformer` has, before anything is built.

    Args:
        config: as of `check_arguments`.
    """
    given = types.SimpleNamespace(**config)
    height, width, channels = given.input_shape
    patches = (height // given.patch_size) * (width // given.patch_size)
    dim, hidden = given.hidden_dim, mlp_dim(config)

    def dense(inputs, outputs):
        return inputs * outputs + outputs

    block = 4 * dim + dense(dim, 3 * dim) + dense(dim, dim)
    block += dense(dim, hidden) + dense(hidden, dim)
    count = dense(given.patch_size**2 * channels, dim) + (2 + patches) * dim
    count += given.depth * block + 2 * dim
    if given.broadcast == "cbs":
        places = BROADCAST_PLACES[given.broadcast_place]
        each = sum(hidden if place == "mlp_mid" else dim for place in places)
        count += each * len(block_indices(given.broadcast_blocks, given.depth))
    return count + dense(dim, given.classes) if given.include_top else count


def mlp_dim(config):
    """Channels of the hidden tokens of an MLP."""
    return int(config["hidden_dim"] * config["mlp_ratio"])


def block_indices(broadcast_blocks, depth):
    """The blocks, counted from 0, that `broadcast_blocks` names.

    `"all"`, `"upper"` (the last half: the paper's Table 9 says only "upper
    layers", this is the project's reading) or a sequence of indices.
    """
    if isinstance(broadcast_blocks, str):
        return range({"all": 0, "upper": depth // 2}[broadcast_blocks], depth)
    return tuple(broadcast_blocks)


def _check_sizes(given):
    if given.hidden_dim % given.num_heads:
        refuse(
            "num_heads",
            given.num_heads,
            f"does not divide hidden_dim={given.hidden_dim} into heads of one size.",
        )
    if given.hidden_dim * given.mlp_ratio < 1:
        refuse(
            "mlp_ratio",
            given.mlp_ratio,
            f"leaves no hidden channels of {given.hidden_dim}.",
        )
    if given.hidden_dim * given.mlp_ratio > LARGEST:
        refuse(
            "mlp_ratio",
            given.mlp_ratio,
            f"makes more than {LARGEST} hidden channels of {given.hidden_dim}.",
        )


def _check_images(given):
    shape, patch = given.input_shape, given.patch_size
    height, width, channels = shape
    if height % patch or width % patch:
        near = tuple(max(round(side / patch), 1) * patch for side in (height, width))
        refuse(
            "input_shape",
            shape,
            f"does not split into patches of {patch}x{patch} pixels: height and width "
            f"must be multiples of patch_size={patch}, for instance "
            f"{(*near, channels)}.",
        )
    if given.include_preprocessing and channels != 3:
        refuse(
            "include_preprocessing",
            True,
            f"normalises red, green and blue, but input_shape={shape} has "
            f"{channels} channels; set include_preprocessing=False.",
        )


def _check_blocks(given):
    blocks = given.broadcast_blocks
    if isinstance(blocks, str):
        return
    if any(not 0 <= index < given.depth for index in blocks):
        refuse(
            "broadcast_blocks",
            blocks,
            f"is out of range: depth={given.depth} has the blocks 0 to "
            f"{given.depth - 1}.",
        )


def _image_shape(argument, value):
    found = items(value, most=3)
    if found is None or len(found) != 3 or any(side is None for side in found):
        refuse(
            argument,
            value,
            "must be (height, width, channels), for instance (224, 224, 3).",
        )
    return tuple(whole_number(argument, side) for side in found)


def _blocks(argument, value):
    if isinstance(value, str) and value in ("all", "upper"):
        return str(value)
    found = items(value, most=DEEPEST)
    try:
        indices = [whole_number("index", index, least=-LARGEST) for index in found]
    except (TypeError, ValueError):
        refuse(
            argument,
            value,
            "is unknown; use 'all', 'upper' or a sequence of block indices.",
        )
    if not indices:
        refuse(argument, value, "names no block; set broadcast=None for the plain ViT.")
    if len({*indices}) < len(indices):
        refuse(argument, value, "names a block twice.")
    return indices


def _depth(argument, value):
    return whole_number(argument, value, most=DEEPEST)


def _classes(argument, value):
    return None if value is None else whole_number(argument, value)


def _one_of(*choices):
    return lambda argument, value: choice(argument, value, choices)


_CHECKS = {
    "input_shape": _image_shape,
    "patch_size": whole_number,
    "hidden_dim": whole_number,
    "depth": _depth,
    "num_heads": whole_number,
    "mlp_ratio": number,
    "broadcast": _one_of(*FAMILIES),
    "broadcast_place": _one_of(*BROADCAST_PLACES),
    "broadcast_blocks": _blocks,
    "context": _one_of(*CONTEXTS),
    "drop_path_rate": drop_rate,
    "remat": flag,
    "include_preprocessing": flag,
    "include_top": flag,
    "pooling": _one_of("token", "avg", None),
    "classes": _classes,
    "classifier_activation": activation,
}
ARGUMENTS = tuple(_CHECKS)
"""The names of the arguments that a `VisionTransformer` is built from."""
