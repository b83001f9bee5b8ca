"""A single residual branch, half an encoder block."""

from typing import Any, Self

import keras

from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import (
    check_shape,
    fixed_channels,
    layer,
    norm_epsilon,
    refuse,
)
from keras_cbvit.layers.parts import CompositeLayer, check_part, part_from_config


@keras.saving.register_keras_serializable(package="keras_cbvit")
class Residual(CompositeLayer):
    """`x + branch(norm(x))`, like the MSA and the MLP of an encoder block.

    Args:
        branch: a layer that keeps the shape of its inputs, `MultiHeadSelfAttention` or
            `MLP`.
        epsilon: small number that the layer norm adds to the variance.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of shape `(batch, tokens, channels)`.

    Returns:
        A tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if `branch` does not keep the shape of its inputs, or the inputs
            have another rank.
    """

    def __init__(
        self, branch: keras.layers.Layer, epsilon: float = 1e-6, **kwargs: Any
    ):
        super().__init__(**kwargs)
        if branch is None:
            refuse("branch", branch, "must be a keras.layers.Layer.")
        self.branch = layer("branch", branch)
        self.input_spec = keras.layers.InputSpec(ndim=3)
        self.epsilon = norm_epsilon("epsilon", epsilon)
        self.norm = self.layer_norm("norm", self.epsilon)

    def build(self, input_shape: Shape) -> None:
        fixed_channels(self, input_shape)
        self.norm.build(input_shape)
        self.branch.build(input_shape)
        check_part(self.branch, input_shape)

    def call(self, inputs: Tensor) -> Tensor:
        return inputs + self.run(self.branch, self.run(self.norm, inputs))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        check_shape(self, input_shape)
        check_part(self.branch, input_shape)
        return input_shape

    def get_config(self) -> dict[str, Any]:
        branch = keras.saving.serialize_keras_object(self.branch)
        return {**super().get_config(), "branch": branch, "epsilon": self.epsilon}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        branch = part_from_config(config["branch"])
        return cls(**{**config, "branch": branch})
