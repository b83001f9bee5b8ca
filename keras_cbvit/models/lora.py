"""LoRA: two small matrices beside a kernel are trained instead of the kernel.

"LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022). Keras's layers compute
with `kernel + alpha / rank * a @ b`. Here is which layers do, what else is trained, and
how the product gets into the kernels.
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
"""The names of the dense layers of a block."""


@dataclasses.dataclass(frozen=True)
class Lora:
    """The LoRA of a model: the arguments of `enable_lora`, with their defaults."""

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
    """Adds LoRA to dense layers of the blocks; only LoRA and the head are trained then.

    It does not matter what was frozen before. If the model has this LoRA already, what
    is not trained is frozen again, and no more. Another model of these layers must be
    built or compiled again, unless `model` has it as a part or it is a feature model.

    Args:
        model: a `VisionTransformer`, a `SegmentationModel`, or a model that has one
            `VisionTransformer` among its layers; in floats, or quantized to int8 or
            int4. Compile it afterwards.
        rank: of the two matrices whose product is added to a kernel.
        targets: names of dense layers of the blocks.
        blocks: indices of blocks, counted from 0, in ascending order; all if not given.
        alpha: the product is multiplied by `alpha / rank`; `rank` if not given.
        train_scale: whether the Λ of CB_S are trained, too.

    Returns:
        How many weights are trained, the head's included. A quantized head has only its
        bias to train.

    Raises:
        ValueError: on an argument that cannot work, or a model without encoder blocks,
            with another LoRA, or quantized in another way. The model stays as it was.
    """
    depth = _parts(model)[-1][0] + 1
    chosen = indices_of_blocks(
        "blocks", range(depth) if blocks is None else blocks, depth
    )
    wanted = Lora(
        rank,
        rank if alpha is None else alpha,
        _target_names(model, targets, chosen),
        tuple(chosen),
        train_scale,
    )
    check_no_other_lora(model, wanted)
    if wanted.train_scale and not scales_of(model):
        refuse("train_scale", train_scale, f"is for CB_S; {model.name} has no Λ.")
    layers = lora_layers(model, wanted).values()
    for layer in layers:
        if layer.quantization_mode not in (None, "int8", "int4"):
            raise ValueError(
                f"{layer.path} is quantized to {layer.quantization_mode}, with which "
                "Keras has no LoRA; use int8 or int4."
            )

    unfreeze(model)  # the new weights of a frozen layer would be frozen
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
    """Brings LoRA into the kernels and out of a model, which is a plain one then.

    The sum is as precise as the kernels are, so a float32 model predicts the same to
    rounding. Nothing is frozen afterwards. Compile the model to train it on. Another
    model of these layers must be built or compiled again, unless `model` has it as a
    part or it is a feature model.

    Args:
        model: a model with LoRA, see `enable_lora`.

    Raises:
        ValueError: if the model has no LoRA, or its kernels are quantized and so cannot
            take the sum exactly. The model stays as it was.
    """
    layers = _layers_with_lora(model)
    if not layers:
        raise ValueError(f"{model.name} has no LoRA to merge.")
    for layer in layers:
        if layer.quantization_mode is not None:
            raise ValueError(
                f"{layer.path} is quantized to {layer.quantization_mode}, so its "
                "kernel cannot take LoRA exactly; keep LoRA beside the model by "
                "save_lora_weights."
            )
    for layer in layers:
        fold_lora(layer)
    unfreeze(model)
    forget_functions(model)


def check_no_other_lora(model: keras.Model, wanted: Lora) -> None:
    """Raises a ValueError if a model has LoRA of other arguments than those wanted."""
    found = lora_of(model)
    if found and dataclasses.replace(found, train_scale=wanted.train_scale) != wanted:
        raise ValueError(
            f"{model.name} has LoRA of {found} already; merge_lora(model) brings it "
            "into the kernels."
        )


def check_no_lora(model: keras.Model) -> None:
    """Raises a ValueError if a model has LoRA, which a copy of its kernels loses."""
    for layer in _layers_with_lora(model):
        raise ValueError(f"{layer.path} has LoRA; call merge_lora(model) first.")


def lora_of(model: keras.Model) -> Lora | None:
    """The LoRA of a model; `None` if it has none.

    Raises:
        ValueError: if it has some that `enable_lora` does not give.
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
            f"{model.name} has LoRA that keras_cbvit.enable_lora does not give, for "
            f"instance that of {layers[0].path}; merge_lora(model) brings it into the "
            "kernels."
        )
    return lora


def lora_layers(model: keras.Model, lora: Lora) -> dict[str, keras.layers.Dense]:
    """The layers that have some LoRA, by their paths: `"block_3/mlp/fc1"`."""
    return {
        f"block_{i}/{path}": layer
        for i, path, layer in _parts(model)
        if i in lora.blocks and _is_target(layer) and layer.name in lora.targets
    }


def scales_of(model: keras.Model) -> dict[str, keras.Variable]:
    """The Λ in a model's blocks, by their paths."""
    return {
        f"block_{i}/{path}/scale": layer.channel_scale
        for i, path, layer in _parts(model)
        if isinstance(layer, ContextBroadcast) and layer.scale
    }


def _parts(model):
    """The layers of the blocks: each one's block, its path within that, and itself.

    Not the names of the blocks, which a program may choose.
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
    """The names of targets in order, each of which the blocks have."""
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
