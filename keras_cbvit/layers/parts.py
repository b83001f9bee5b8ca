"""Layers that consist of other layers."""

from collections.abc import Iterable
from typing import Any

import keras

from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.internals import layers_within

CALIBRATED = ("gptq", "awq")
"""The modes of quantization that Keras calibrates on tokens of text."""


class Part(keras.layers.Layer):
    """A layer whose `call` needs nothing of what Keras does around a call.

    Keras's `Layer.__call__` takes about 0.1 ms on torch, as long as a small product.
    """


class CompositeLayer(Part):
    """A layer of layers, whose configuration says how its parts are quantized.

    Keras quantizes a model's innermost layers one by one, and keeps the mode in their
    configurations. The parts of a composite layer are in no file, so the composite
    layer keeps it for them.

    Args:
        quantized: how parts are quantized, by their path within this layer, as
            `get_config` gives it; none if not given.
        **kwargs: those of `keras.layers.Layer`.
    """

    def __init__(self, quantized: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self._quantized = quantized or {}

    def part_arguments(self, name: str) -> dict[str, Any]:
        """The arguments of the part of this name that say its dtype."""
        if name in self._quantized:
            return {
                key: keras.saving.deserialize_keras_object(value)
                for key, value in self._quantized[name].items()
            }
        inner = {
            path.removeprefix(f"{name}/"): value
            for path, value in self._quantized.items()
            if path.startswith(f"{name}/")
        }
        arguments = {"dtype": self.dtype_policy}
        return {**arguments, "quantized": inner} if inner else arguments

    def layer_norm(self, name: str, epsilon: float) -> keras.layers.LayerNormalization:
        """A layer norm to be a part of this layer."""
        return LayerNorm(epsilon=epsilon, dtype=self.dtype_policy, name=name)

    def run(self, part: keras.layers.Layer, *args: Any, **kwargs: Any) -> Tensor:
        """Calls a part, without what Keras does around a call where that is nothing.

        It is something where a dtype changes, as for quantized parts, or where a loss
        is added.
        """
        is_nothing = (
            isinstance(part, Part)
            and part.dtype_policy == self.dtype_policy
            and part.activity_regularizer is None
            and keras.backend.standardize_dtype(args[0].dtype) == self.compute_dtype
        )
        call = part.call if is_nothing else part
        return call(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        found = quantized_layers(self) if self.built else self._quantized
        return {**config, "quantized": dict(found)} if found else config


class LayerNorm(Part, keras.layers.LayerNormalization):
    """Keras's layer norm as a part of another layer."""


def quantized_layers(layer: keras.layers.Layer) -> dict[str, dict[str, Any]]:
    """How the layers within a layer are quantized, by their path within it.

    Each is given as arguments of `keras.layers.Dense`, serialized; layers that are not
    quantized are left out.

    Raises:
        ValueError: if a layer cannot be built again as it was quantized.
    """
    prefix = f"{layer.path}/" if isinstance(layer, CompositeLayer) else ""
    quantized = [each for each in layers_within(layer) if each.quantization_mode]
    check_quantized(quantized)
    if quantized and not hasattr(keras.quantizers, "QuantizationConfig"):
        raise ValueError(
            f"{quantized[0].path} is quantized, which Keras {keras.__version__} does "
            "not keep in a file; update Keras, or save the model before that."
        )
    return {
        part.path.removeprefix(prefix): {
            "dtype": keras.dtype_policies.serialize(part.dtype_policy),
            "quantization_config": keras.saving.serialize_keras_object(
                getattr(part, "quantization_config", None)
            ),
        }
        for part in quantized
    }


def check_quantized(layers: Iterable[keras.layers.Layer]) -> None:
    """Raises a ValueError if a file of some layers would be one of other layers."""
    for layer in layers:
        mode = layer.quantization_mode
        if mode in CALIBRATED:
            raise ValueError(
                f"{layer.path} is quantized to {mode}, which Keras calibrates on text "
                "alone, so no file can have it; quantize the model to int8, int4 or "
                "float8."
            )
        if mode is not None and getattr(layer, "lora_enabled", False):
            raise ValueError(
                f"{layer.path} has LoRA beside a kernel in {mode}, which cannot take "
                "it exactly; save the quantized model before LoRA is enabled, and LoRA "
                "by save_lora_weights."
            )


def check_part(part: keras.layers.Layer, shape: Shape) -> None:
    """Raises a ValueError unless a layer keeps this shape of its inputs."""
    found = part.compute_output_shape(shape)
    if tuple(found) != tuple(shape):
        raise ValueError(
            f"{part.name} makes {tuple(found)} of inputs of shape {tuple(shape)}, but "
            "has to keep their shape at its place."
        )


def part_from_config(config: dict[str, Any]) -> keras.layers.Layer:
    """A layer of its serialized configuration, not built yet.

    Keras would build it at once, in no name scope. The layer that it is part of builds
    it, so that its weights have the same paths as before it was saved.
    """
    return keras.saving.deserialize_keras_object({**config, "build_config": None})
