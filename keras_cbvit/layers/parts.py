"""Base classes of layers with sublayers."""

from collections.abc import Iterable
from typing import Any

import keras

from keras_cbvit import backend
from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.internals import layers_within

CALIBRATED = ("gptq", "awq")
"""Quantization modes that Keras calibrates on text."""


class Part(keras.layers.Layer):
    """A layer whose `call` can run without `keras.layers.Layer.__call__`.

    `__call__` takes about 0.1 ms on torch, as long as a small matrix product.
    """


class CompositeLayer(Part):
    """A layer with sublayers, whose configuration stores their quantization.

    Keras quantizes the innermost layers of a model and stores the mode in their
    configurations. The configurations of a composite layer's parts are not saved, so
    the composite layer stores the mode for them.

    Args:
        quantized: quantization of the parts by path within this layer, as in
            `get_config`.
        **kwargs: those of `keras.layers.Layer`.
    """

    def __init__(self, quantized: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self._quantized = quantized or {}

    def part_arguments(self, name: str) -> dict[str, Any]:
        """Returns the arguments that set the dtype and quantization of a part."""
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
        """Returns a layer norm for use as a part of this layer."""
        return LayerNorm(epsilon=epsilon, dtype=self.dtype_policy, name=name)

    def run(self, part: keras.layers.Layer, *args: Any, **kwargs: Any) -> Tensor:
        """Calls a part, directly by `call` where `__call__` would do nothing else.

        `__call__` is needed where a dtype changes, as for quantized parts, or a loss is
        added.
        """
        is_direct = (
            isinstance(part, Part)
            and part.dtype_policy == self.dtype_policy
            and part.activity_regularizer is None
            and keras.backend.standardize_dtype(args[0].dtype) == self.compute_dtype
        )
        call = part.call if is_direct else part
        return call(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        found = quantized_layers(self) if self.built else self._quantized
        return {**config, "quantized": dict(found)} if found else config


class LayerNorm(Part, keras.layers.LayerNormalization):
    """Keras's layer norm over the channels, with a faster implementation."""

    def call(self, inputs: Tensor) -> Tensor:
        return backend.layer_norm(inputs, self.gamma, self.beta, self.epsilon)


def quantized_layers(layer: keras.layers.Layer) -> dict[str, dict[str, Any]]:
    """Returns the quantization of the layers within a layer, by path within it.

    The values are serialized arguments of `keras.layers.Dense`; layers that are not
    quantized are left out.

    Raises:
        ValueError: if a quantized layer cannot be rebuilt from its configuration.
    """
    prefix = f"{layer.path}/" if isinstance(layer, CompositeLayer) else ""
    quantized = [each for each in layers_within(layer) if each.quantization_mode]
    check_quantized(quantized)
    if quantized and not hasattr(keras.quantizers, "QuantizationConfig"):
        raise ValueError(
            f"{quantized[0].path} is quantized, which Keras {keras.__version__} cannot "
            "save; update Keras, or save the model before you quantize it."
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
    """Raises a ValueError if the quantization of some layers cannot be saved."""
    for layer in layers:
        mode = layer.quantization_mode
        if mode in CALIBRATED:
            raise ValueError(
                f"{layer.path} is quantized to {mode}, which Keras calibrates on text "
                "only, so it cannot be saved; use int8, int4 or float8."
            )
        if mode is not None and getattr(layer, "lora_enabled", False):
            raise ValueError(
                f"{layer.path} has LoRA on a kernel in {mode}, which cannot be merged "
                "exactly; save the quantized model before you enable LoRA, and LoRA "
                "with save_lora_weights."
            )


def check_part(part: keras.layers.Layer, shape: Shape) -> None:
    """Raises a ValueError unless a layer keeps the shape of its inputs."""
    found = part.compute_output_shape(shape)
    if tuple(found) != tuple(shape):
        raise ValueError(
            f"{part.name} must keep the shape of its inputs, but returns "
            f"{tuple(found)} for {tuple(shape)}."
        )


def part_from_config(config: dict[str, Any]) -> keras.layers.Layer:
    """Returns a layer from its serialized configuration, not built yet.

    Keras would build it at once, outside of any name scope. Instead its parent builds
    it, so that the paths of its weights stay the same.
    """
    return keras.saving.deserialize_keras_object({**config, "build_config": None})
