"""LayerScale."""

from typing import Any

import keras

from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import check_shape, fixed_channels, number_between
from keras_cbvit.layers.parts import Part

INITIAL_VALUE = number_between(0, 100)
"""Validates the initial value of the factors."""


@keras.saving.register_keras_serializable(package="keras_cbvit")
class LayerScale(Part):
    """Multiplies each channel by a learnable factor γ, as DINOv2 and CaiT do.

    ::

        y = γ ⊙ x

    From "Going deeper with Image Transformers" (ICCV 2021). In an encoder block it is
    the last layer of a branch, so it also scales the output of CB there.

    Args:
        initial_value: initial value of every γ; DINOv2 uses 1e-5.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of shape `(batch, ..., channels)`.

    Returns:
        A tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if `initial_value` is not a number between 0 and 100.
    """

    def __init__(self, initial_value: float = 1e-5, **kwargs: Any):
        super().__init__(**kwargs)
        self.initial_value = INITIAL_VALUE("initial_value", initial_value)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def build(self, input_shape: Shape) -> None:
        self.gamma = self.add_weight(
            name="gamma",
            shape=(fixed_channels(self, input_shape),),
            initializer=keras.initializers.Constant(self.initial_value),
        )

    def call(self, inputs: Tensor) -> Tensor:
        return inputs * self.gamma

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        check_shape(self, input_shape)
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "initial_value": self.initial_value}
