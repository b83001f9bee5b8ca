"""What is trained of a pretrained model, and how fast."""

from collections.abc import Iterator

import keras

from keras_cbvit.arguments import number_between, refuse
from keras_cbvit.internals import layers_within
from keras_cbvit.layers import EncoderBlock

# The layers after the last block that belong to the backbone, not to the head.
_LAST = ("extra_branch", "norm")


def layer_decay(model: keras.Model, decay: float) -> dict[str, float]:
    """Layer-wise learning-rate decay: lower layers learn slower, as in BEiT and MAE.

    Of a Vision Transformer of `depth` blocks, patch and token embedding are layer 0,
    block `i` is layer `i + 1`, and the last norm and the head are layer `depth + 1`.
    The factor of a layer is `decay ** (depth + 1 - layer)`.

    Args:
        model: a `VisionTransformer`, a `SegmentationModel`, or a model that has one
            `VisionTransformer` among its layers.
        decay: more than 0 and at most 1; BEiT and MAE take 0.65 to 0.75.

    Returns:
        The factors on the learning rate by the paths of the weights that are trained,
        for `keras_cbvit.AdamW`.

    Raises:
        ValueError: on another `decay`, or a model without encoder blocks.
    """
    decay = number_between(1e-3, 1)("decay", decay)
    layers, blocks = _layers_and_blocks(model)
    factors = {}
    for i, layer in enumerate(layers):
        # Before the first block, all blocks are above; after the last one, none.
        above = sum(i <= block for block in blocks) + (i < blocks[0])
        for weight in layer.trainable_variables:
            factors[weight.path] = decay**above
    return factors


def freeze_backbone(model: keras.Model) -> None:
    """Freezes all of a model but its head, Λ included; a file of the model keeps that.

    Args:
        model: as of `layer_decay`. Compile it afterwards. `unfreeze`
            takes it back.

    Raises:
        ValueError: on a model without encoder blocks.
    """
    for layer in backbone_layers(model):
        _set_trainable(layer, False)


def unfreeze(model: keras.Model) -> None:
    """Has all of a model trained again; compile it afterwards.

    `model.trainable = True` is not enough on TensorFlow if the model, but not all in
    it, is trainable already.
    """
    for layer in (model, *layers_within(model)):
        _set_trainable(layer, True)


def _set_trainable(layer, value):
    """Sets `trainable` of a layer, of its parts and of its weights.

    On TensorFlow, Keras leaves out what is set to the value it has, parts included.
    """
    layer.trainable = not value
    layer.trainable = value


def backbone_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a model that come before its head, in the order they run in.

    Args:
        model: as of `layer_decay`.

    Raises:
        ValueError: on a model without encoder blocks.
    """
    layers, blocks = _layers_and_blocks(model)
    last = [layer for layer in layers if layer.name in _LAST]
    return [*layers[: blocks[-1] + 1], *last]


def _layers_and_blocks(model):
    """A model's layers in the order they run in, and which of them are its blocks."""
    if not isinstance(model, keras.Model):
        refuse("model", model, "must be a keras.Model.")
    layers = [*_flat(model)]
    blocks = [i for i, layer in enumerate(layers) if isinstance(layer, EncoderBlock)]
    if not blocks:
        raise ValueError(
            f"{model.name} has no encoder blocks, so it is no VisionTransformer and "
            "has none among its layers."
        )
    return layers, blocks


def _flat(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _flat(layer)
        else:
            yield layer
