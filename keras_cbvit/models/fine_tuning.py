"""Layer-wise learning rates and freezing for fine-tuning."""

from collections.abc import Iterator

import keras

from keras_cbvit.arguments import number_between, refuse
from keras_cbvit.internals import layers_within
from keras_cbvit.layers import EncoderBlock

# Layers after the last block that belong to the backbone, not to the head.
_LAST = ("extra_branch", "norm")


def layer_decay(model: keras.Model, decay: float) -> dict[str, float]:
    """Layer-wise learning-rate decay, as in BEiT and MAE: lower layers learn slower.

    In a Vision Transformer with `depth` blocks, patch and token embedding are layer 0,
    block `i` is layer `i + 1`, and the last norm and the head are layer `depth + 1`.
    The factor of a layer is `decay ** (depth + 1 - layer)`.

    Args:
        model: a `VisionTransformer`, a `SegmentationModel`, or a model with one
            `VisionTransformer` among its layers.
        decay: more than 0 and at most 1; BEiT and MAE use 0.65 to 0.75.

    Returns:
        Learning-rate factors by path of the trainable weights, for
        `keras_cbvit.AdamW`.

    Raises:
        ValueError: if `decay` is out of range, or the model has no encoder blocks.
    """
    decay = number_between(1e-3, 1)("decay", decay)
    layers, blocks = _layers_and_blocks(model)
    factors = {}
    for i, layer in enumerate(layers):
        # All blocks are above the embedding, none above the head.
        above = sum(i <= block for block in blocks) + (i < blocks[0])
        for weight in layer.trainable_variables:
            factors[weight.path] = decay**above
    return factors


def freeze_backbone(model: keras.Model) -> None:
    """Freezes a model except for its head; Λ is frozen, too.

    The model's file stores which layers are frozen. `unfreeze` reverts it.

    Args:
        model: as for `layer_decay`. Compile it afterwards.

    Raises:
        ValueError: if the model has no encoder blocks.
    """
    for layer in backbone_layers(model):
        _set_trainable(layer, False)


def unfreeze(model: keras.Model) -> None:
    """Makes all layers of a model trainable; compile it afterwards.

    On TensorFlow, `model.trainable = True` has no effect on the layers if the model is
    already trainable.
    """
    for layer in (model, *layers_within(model)):
        _set_trainable(layer, True)


def _set_trainable(layer, value):
    """Sets `trainable` of a layer, its nested layers and its weights.

    On TensorFlow, Keras ignores an assignment of the current value, for nested layers
    as well.
    """
    layer.trainable = not value
    layer.trainable = value


def backbone_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers of a model before its head, in execution order.

    Args:
        model: as for `layer_decay`.

    Raises:
        ValueError: if the model has no encoder blocks.
    """
    layers, blocks = _layers_and_blocks(model)
    last = [layer for layer in layers if layer.name in _LAST]
    return [*layers[: blocks[-1] + 1], *last]


def _layers_and_blocks(model):
    """Returns a model's layers in execution order, and the indices of its blocks."""
    if not isinstance(model, keras.Model):
        refuse("model", model, "must be a keras.Model.")
    layers = [*_flat(model)]
    blocks = [i for i, layer in enumerate(layers) if isinstance(layer, EncoderBlock)]
    if not blocks:
        raise ValueError(
            f"{model.name} has no encoder blocks; it must be, or contain, a "
            "VisionTransformer."
        )
    return layers, blocks


def _flat(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _flat(layer)
        else:
            yield layer
