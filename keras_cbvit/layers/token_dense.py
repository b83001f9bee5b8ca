"""A dense layer for tokens."""

from typing import Any

import keras

from keras_cbvit import backend
from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import (
    check_memory,
    check_shape,
    fixed_channels,
    whole_number,
)
from keras_cbvit.internals import merged_kernel
from keras_cbvit.layers.parts import Part


@keras.saving.register_keras_serializable(package="keras_cbvit")
class TokenDense(Part, keras.layers.Dense):
    """Keras's `Dense` with a faster implementation (see `keras_cbvit.backend`).

    Args:
        units: output channels.
        **kwargs: those of `keras.layers.Dense`.

    Call arguments:
        inputs: tensor of shape `(batch, ..., channels)`, of rank 2 or more.

    Returns:
        A tensor of shape `(batch, ..., units)` in the layer's compute dtype.

    Raises:
        ValueError: if `units` is not a positive whole number.
    """

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(whole_number("units", units), **kwargs)

    def build(self, input_shape: Shape) -> None:
        weights = fixed_channels(self, input_shape) * self.units
        check_memory(f"units={self.units}", weights, self.variable_dtype)
        super().build(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        check_shape(self, input_shape)
        return super().compute_output_shape(input_shape)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        x = backend.dense(inputs, self.kernel, self.bias)
        return x if self.activation is None else self.activation(x)

    def quantize(
        self, mode: Any = None, type_check: bool = True, config: Any = None
    ) -> None:
        # By default, Keras refuses to quantize subclasses.
        super().quantize(mode, type_check=False, config=config)

    def save_own_variables(self, store: Any) -> None:
        found = {}
        super().save_own_variables(found)
        if self.lora_enabled and self.quantization_mode is None:
            # Keras would merge in the compute dtype.
            found["0"] = keras.ops.cast(merged_kernel(self), self.variable_dtype)
        for name, value in found.items():
            store[name] = value
