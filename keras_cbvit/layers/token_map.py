"""Reshapes the tokens of a Vision Transformer to a feature map."""

from typing import Any

import keras
from keras import ops

from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import check_shape, whole_number
from keras_cbvit.layers.grid import check_patches


@keras.saving.register_keras_serializable(package="keras_cbvit")
class TokenMap(keras.layers.Layer):
    """Reshapes the patch tokens to a feature map and drops the prefix tokens.

    Args:
        patch_size: side of a patch in pixels.
        num_prefix_tokens: number of tokens before the patch tokens, such as the class
            token.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tokens of shape `(batch, prefix + tokens, channels)`.
        images: the images, of shape `(batch, height, width, channels)`; only their size
            is used.

    Returns:
        A tensor of shape `(batch, height/patch_size, width/patch_size, channels)`.

    Raises:
        ValueError: if `patch_size` is not a positive whole number, or the number of
            tokens does not match the images.
    """

    def __init__(self, patch_size: int, num_prefix_tokens: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.patch_size = whole_number("patch_size", patch_size)
        self.num_prefix_tokens = whole_number(
            "num_prefix_tokens", num_prefix_tokens, least=0
        )
        self.input_spec = keras.layers.InputSpec(ndim=3)
        self.built = True

    def call(self, inputs: Tensor, images: Tensor) -> Tensor:
        self._check(inputs.shape, images.shape)
        _, height, width, _ = ops.shape(images)
        grid = (height // self.patch_size, width // self.patch_size)
        return ops.reshape(
            inputs[:, self.num_prefix_tokens :], (-1, *grid, inputs.shape[-1])
        )

    def _check(self, inputs_shape, images_shape):
        check_shape(self, inputs_shape)
        tokens = inputs_shape[1]
        patches = None if tokens is None else tokens - self.num_prefix_tokens
        check_patches(self, self.patch_size, images_shape, patches)

    def compute_output_shape(self, inputs_shape: Shape, images_shape: Shape) -> Shape:
        self._check(inputs_shape, images_shape)
        grid = (side and side // self.patch_size for side in images_shape[1:3])
        return (inputs_shape[0], *grid, inputs_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "patch_size": self.patch_size,
            "num_prefix_tokens": self.num_prefix_tokens,
        }
