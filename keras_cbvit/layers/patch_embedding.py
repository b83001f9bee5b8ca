"""Patch embedding."""

from typing import Any

import keras
from keras import ops

from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import check_shape, fixed_channels, whole_number
from keras_cbvit.layers.grid import check_patches
from keras_cbvit.layers.initializers import patch_kernel
from keras_cbvit.layers.parts import CompositeLayer
from keras_cbvit.layers.token_dense import TokenDense


@keras.saving.register_keras_serializable(package="keras_cbvit")
class PatchEmbedding(CompositeLayer):
    """Splits images into square patches and projects each linearly to a token.

    Other implementations use a convolution with kernel size and stride `patch_size`.
    This matrix product gives the same numbers, faster on a CPU with JAX and torch and
    as fast with TensorFlow.

    Args:
        patch_size: side of a patch in pixels.
        hidden_dim: channels of the tokens.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: images of shape `(batch, height, width, channels)`; `patch_size`
            must divide height and width.

    Returns:
        Tokens of shape `(batch, height/patch_size * width/patch_size, hidden_dim)`
        in the layer's compute dtype, row by row from the upper left patch.

    Raises:
        ValueError: if a size is not a positive whole number, the images have another
            rank, or `patch_size` does not divide their height and width.
    """

    def __init__(self, patch_size: int, hidden_dim: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.patch_size = whole_number("patch_size", patch_size)
        self.hidden_dim = whole_number("hidden_dim", hidden_dim)
        self.input_spec = keras.layers.InputSpec(ndim=4)
        self.projection = TokenDense(
            self.hidden_dim,
            kernel_initializer=patch_kernel(),
            **self.part_arguments("projection"),
            name="projection",
        )

    def build(self, input_shape: Shape) -> None:
        channels = fixed_channels(self, input_shape)
        check_patches(self, self.patch_size, input_shape)
        self.projection.build((None, None, self.patch_size**2 * channels))

    def call(self, inputs: Tensor) -> Tensor:
        # The images may have another size than in `build`.
        check_patches(self, self.patch_size, inputs.shape)
        p, channels = self.patch_size, inputs.shape[-1]
        _, height, width, _ = ops.shape(inputs)
        rows, columns = height // p, width // p
        x = ops.reshape(inputs, (-1, rows, p, columns, p, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        x = ops.reshape(x, (-1, rows * columns, p * p * channels))
        return self.run(self.projection, x)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        check_shape(self, input_shape)
        check_patches(self, self.patch_size, input_shape)
        batch, height, width, _ = input_shape
        if height is None or width is None:
            return (batch, None, self.hidden_dim)
        return (batch, height * width // self.patch_size**2, self.hidden_dim)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "patch_size": self.patch_size,
            "hidden_dim": self.hidden_dim,
        }
