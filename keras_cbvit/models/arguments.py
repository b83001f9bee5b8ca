"""Which arguments a Vision Transformer can be built with."""

import types

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
CHOICES = {
    "broadcast": tuple(FAMILIES),
    "broadcast_place": tuple(BROADCAST_PLACES),
    "context": CONTEXTS,
    "pooling": ("token", "avg", None),
    "remat": (True, False),
    "include_preprocessing": (True, False),
    "include_top": (True, False),
}


def check_arguments(config):
    """Raises a ValueError that names the first argument that cannot work.

    Args:
        config: the arguments of a `VisionTransformer` by name, in Python's own types.
    """
    for argument in ("patch_size", "hidden_dim", "depth", "num_heads"):
        _check_count(argument, config[argument])
    for argument in ("mlp_ratio", "drop_path_rate"):
        _check_number(argument, config[argument])
    for argument, choices in CHOICES.items():
        _check_choice(argument, config[argument], choices)
    given = types.SimpleNamespace(**config)
    _check_sizes(given)
    _check_images(given)
    _check_blocks(given)
    if given.include_top:
        _check_count("classes", given.classes)
        if given.pooling is None:
            _refuse(
                "pooling",
                None,
                "leaves the head without a vector to classify; use 'token' or 'avg', "
                "or include_top=False.",
            )


def _check_sizes(given):
    if given.hidden_dim % given.num_heads:
        _refuse(
            "num_heads",
            given.num_heads,
            f"does not divide hidden_dim={given.hidden_dim} into heads of one size.",
        )
    if given.hidden_dim * given.mlp_ratio < 1:
        _refuse(
            "mlp_ratio",
            given.mlp_ratio,
            f"leaves no hidden channels of {given.hidden_dim}.",
        )
    if not 0 <= given.drop_path_rate < 1:
        _refuse(
            "drop_path_rate",
            given.drop_path_rate,
            "must be at least 0 and less than 1.",
        )


def _check_images(given):
    shape = given.input_shape
    if not isinstance(shape, tuple | list) or len(shape) != 3 or None in shape:
        _refuse(
            "input_shape",
            shape,
            "must be (height, width, channels), for instance (224, 224, 3).",
        )
    for side in shape:
        _check_count("input_shape", side)
    height, width, channels = shape
    patch = given.patch_size
    if height % patch or width % patch:
        near = tuple(max(round(side / patch), 1) * patch for side in (height, width))
        _refuse(
            "input_shape",
            tuple(shape),
            f"does not split into patches of {patch}x{patch} pixels: height and width "
            f"must be multiples of patch_size={patch}, for instance "
            f"{(*near, channels)}.",
        )
    if given.include_preprocessing and channels != 3:
        _refuse(
            "include_preprocessing",
            True,
            f"normalises red, green and blue, but input_shape={tuple(shape)} has "
            f"{channels} channels; set include_preprocessing=False.",
        )


def _check_blocks(given):
    blocks = given.broadcast_blocks
    if blocks in ("all", "upper"):
        return
    if not isinstance(blocks, tuple | list | range) or any(
        type(index) is not int for index in blocks
    ):
        _refuse(
            "broadcast_blocks",
            blocks,
            "is unknown; use 'all', 'upper' or a sequence of block indices.",
        )
    if any(not 0 <= index < given.depth for index in blocks):
        _refuse(
            "broadcast_blocks",
            blocks,
            f"is out of range: depth={given.depth} has the blocks 0 to "
            f"{given.depth - 1}.",
        )


def _refuse(argument, value, why):
    raise ValueError(f"{argument}={value!r} {why}")


def _check_choice(argument, value, choices):
    # By equality, not by `in` a table: what cannot be hashed is unknown, too.
    if not any(value is choice or value == choice for choice in choices):
        known = ", ".join(repr(choice) for choice in choices)
        _refuse(argument, value, f"is unknown; use one of {known}.")


def _check_count(argument, value):
    if type(value) is not int or value < 1:
        _refuse(argument, value, "must be a whole number of at least 1.")


def _check_number(argument, value):
    if type(value) not in (int, float):
        _refuse(argument, value, "must be a number.")
