"""LoRA: trains a low-rank update of the kernels instead of the kernels.

"LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022). Keras's layers compute
with `kernel + alpha / rank * a @ b`. This module selects the layers and other trainable
weights, and merges the update into the kernels.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated

import keras

from keras_cbvit.arguments import (
    check_fields,
    indices_of_blocks,
    items,
    number_between,
    refuse,
    whole_number,
)
from keras_cbvit.internals import fold_lora, forget_functions, layers_within
from keras_cbvit.layers import ContextBroadcast, EncoderBlock
from keras_cbvit.models.fine_tuning import backbone_layers, unfreeze

TARGETS = ("qkv", "projection", "fc1", "fc2")
"""Names of the dense layers of a block."""


@dataclasses.dataclass(frozen=True)
class Lora:
    """The arguments of `enable_lora`, with their defaults filled in."""

    rank: Annotated[int, whole_number]
    alpha: Annotated[float, number_between(1e-3)]
    targets: tuple[str, ...]
    blocks: tuple[int, ...]
    train_scale: bool

    def __post_init__(self):
        check_fields(self)

    def __str__(self):
        return (
            f"rank={self.rank}, alpha={self.alpha:g}, targets={self.targets} and "
            f"blocks={self.blocks}"
        )


def enable_lora(
    model: keras.Model,
    rank: int,
    targets: Sequence[str] = TARGETS,
    blocks: Sequence[int] | None = None,
    *,
    alpha: float | None = None,
    train_scale: bool = False,
) -> int:
    """Adds LoRA to dense layers of the blocks and freezes all else but the head.

    Layers that were frozen before do not matter. If the model already has this LoRA,
    only freezes the other weights again. Other models that share these layers must be
    rebuilt or compiled again, except for models nested in `model` and its feature
    models.

    Args:
        model: a `VisionTransformer`, a `SegmentationModel`, or a model with one
            `VisionTransformer` among its layers; in floating point, or quantized to
            int8 or int4. Compile it afterwards.
        rank: rank of the update of a kernel.
        targets: names of dense layers of the blocks.
        blocks: ascending indices of blocks, counted from 0. Defaults to all.
        alpha: the update is scaled by `alpha / rank`. Defaults to `rank`.
        train_scale: whether to train the Λ of CB_S as well.

    Returns:
        The number of trainable weights, the head's included. Only the bias of a
        quantized head is trainable.

    Raises:
        ValueError: if an argument is invalid, or the model has no encoder blocks, has
            another LoRA, or is quantized to another mode. The model is not changed.
    """
    depth = _parts(model)[-1][0] + 1
    indices = indices_of_blocks(
        "blocks", range(depth) if blocks is None else blocks, depth
    )
    wanted = Lora(
        rank,
        rank if alpha is None else alpha,
        _target_names(model, targets, indices),
        tuple(indices),
        train_scale,
    )
    check_no_other_lora(model, wanted)
    if wanted.train_scale and not scales_of(model):
        refuse("train_scale", train_scale, f"requires CB_S; {model.name} has no Λ.")
    layers = lora_layers(model, wanted).values()
    for layer in layers:
        if layer.quantization_mode not in (None, "int8", "int4"):
            raise ValueError(
                f"{layer.path} is quantized to {layer.quantization_mode}, for which "
                "Keras does not support LoRA; use int8 or int4."
            )

    unfreeze(model)  # new weights of a frozen layer would be frozen
    for layer in backbone_layers(model):
        for weight in layer.weights:
            weight.trainable = False
    for layer in layers:
        if not layer.lora_enabled:
            layer.enable_lora(wanted.rank, lora_alpha=wanted.alpha)
        layer.lora_kernel_a.trainable = layer.lora_kernel_b.trainable = True
    for scale in scales_of(model).values():
        scale.trainable = wanted.train_scale
    forget_functions(model)
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def merge_lora(model: keras.Model) -> None:
    """Merges LoRA into the kernels and removes it from the model.

    The sum is computed in the precision of the kernels, so a float32 model predicts the
    same up to rounding. All layers are trainable afterwards; compile the model to train
    it. Other models that share these layers must be rebuilt or compiled again, except
    for models nested in `model` and its feature models.

    Args:
        model: a model with LoRA, see `enable_lora`.

    Raises:
        ValueError: if the model has no LoRA, or its kernels are quantized and cannot
            represent the sum exactly. The model is not changed.
    """
    layers = _layers_with_lora(model)
    if not layers:
        raise ValueError(f"{model.name} has no LoRA to merge.")
    for layer in layers:
        if layer.quantization_mode is not None:
            raise ValueError(
                f"{layer.path} is quantized to {layer.quantization_mode}, so LoRA "
                "cannot be merged into its kernel exactly; save LoRA separately with "
                "save_lora_weights."
            )
    for layer in layers:
        fold_lora(layer)
    unfreeze(model)
    forget_functions(model)


def check_no_other_lora(model: keras.Model, wanted: Lora) -> None:
    """Raises a ValueError if a model has LoRA with other arguments than `wanted`."""
    found = lora_of(model)
    if found and dataclasses.replace(found, train_scale=wanted.train_scale) != wanted:
        raise ValueError(
            f"{model.name} already has LoRA with {found}; call merge_lora(model) first."
        )


def check_no_lora(model: keras.Model) -> None:
    """Raises a ValueError if a model has LoRA, which copying its kernels would lose."""
    for layer in _layers_with_lora(model):
        raise ValueError(f"{layer.path} has LoRA; call merge_lora(model) first.")


def lora_of(model: keras.Model) -> Lora | None:
    """Returns the LoRA of a model; `None` if it has none.

    Raises:
        ValueError: if it was not added by `enable_lora`.
    """
    layers = _layers_with_lora(model)
    if not layers:
        return None
    found = [part for part in _parts(model) if getattr(part[2], "lora_enabled", False)]
    lora = Lora(
        layers[0].lora_rank,
        float(layers[0].lora_alpha),
        tuple(sorted({layer.name for _, _, layer in found})),
        tuple(sorted({i for i, _, _ in found})),
        any(scale.trainable for scale in scales_of(model).values()),
    )
    expected = {id(layer) for layer in lora_layers(model, lora).values()}
    factors = {(layer.lora_rank, layer.lora_alpha) for layer in layers}
    if expected != {id(layer) for layer in layers} or len(factors) > 1:
        raise ValueError(
            f"{model.name} has LoRA that was not added by keras_cbvit.enable_lora, for "
            f"instance in {layers[0].path}; call merge_lora(model) first."
        )
    return lora


def lora_layers(model: keras.Model, lora: Lora) -> dict[str, keras.layers.Dense]:
    """Returns the layers of a LoRA by path, such as `"block_3/mlp/fc1"`."""
    return {
        f"block_{i}/{path}": layer
        for i, path, layer in _parts(model)
        if i in lora.blocks and _is_target(layer) and layer.name in lora.targets
    }


def scales_of(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns the Λ of a model's blocks by path."""
    return {
        f"block_{i}/{path}/scale": layer.channel_scale
        for i, path, layer in _parts(model)
        if isinstance(layer, ContextBroadcast) and layer.scale
    }


def _parts(model):
    """Returns `(block index, path within the block, layer)` for layers of the blocks.

    By index, since the names of the blocks may differ in a custom model.
    """
    blocks = [b for b in backbone_layers(model) if isinstance(b, EncoderBlock)]
    return [
        (i, layer.path.removeprefix(f"{block.path}/"), layer)
        for i, block in enumerate(blocks)
        for layer in layers_within(block)
        if layer.path  # a layer without weights may not be built
    ]


def _is_target(layer):
    return isinstance(layer, keras.layers.Dense)


def _layers_with_lora(model):
    found = layers_within(model)
    return [layer for layer in found if getattr(layer, "lora_enabled", False)]


def _target_names(model, targets, blocks):
    """Validates and sorts the names of the target layers."""
    known = {
        layer.name: None
        for i, _, layer in _parts(model)
        if i in blocks and _is_target(layer)
    }
    names = items(targets)
    if not names or not all(isinstance(name, str) and name in known for name in names):
        refuse(
            "targets",
            targets,
            f"must be names of dense layers of the blocks: {', '.join(known)}.",
        )
    return tuple(sorted({*names}))
