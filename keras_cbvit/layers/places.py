"""Helpers for the places in an encoder block that take layers such as CB."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_cbvit.annotations import Places, Shape
from keras_cbvit.arguments import refuse
from keras_cbvit.layers.parts import check_part, part_from_config


def layers_at(place: str, value: Places) -> tuple[keras.layers.Layer, ...]:
    """Returns the layers at a place as a tuple.

    Args:
        place: the name of the place, for messages.
        value: a layer, an ordered list or tuple of layers, or `None`.

    Raises:
        ValueError: if `value` is anything else.
    """
    if value is None or isinstance(value, keras.layers.Layer):
        return () if value is None else (value,)
    if not isinstance(value, list | tuple) or not all(
        isinstance(each, keras.layers.Layer) for each in value
    ):
        refuse(place, value, "must be a keras.layers.Layer, or a list of them.")
    return tuple(value)


def build_at(layers: Sequence[keras.layers.Layer], shape: Shape) -> None:
    """Builds the layers at a place and checks that each keeps the input shape."""
    for layer in layers:
        layer.build(shape)
        check_part(layer, shape)


def serialize_at(layers: Sequence[keras.layers.Layer]) -> list[dict[str, Any]]:
    """Serializes the layers at a place."""
    return [keras.saving.serialize_keras_object(layer) for layer in layers]


def from_config_at(config: Sequence[dict[str, Any]] | None) -> list[keras.layers.Layer]:
    """Deserializes the layers at a place, without building them."""
    return [part_from_config(each) for each in config or ()]
