"""Bilinear resizing of one map to the size of another."""

from typing import Any

import keras
from keras import ops

from keras_cbvit import backend
from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import check_shape


def resize_like(x: Tensor, like: Tensor) -> Tensor:
    """Resizes a map bilinearly to the size of another.

    Corners are not aligned, as in mmsegmentation. Upscaling is the same on every
    backend.

    Args:
        x: tensor of shape `(batch, height, width, channels)`.
        like: tensor of shape `(batch, new_height, new_width, any)`.

    Returns:
        A tensor of shape `(batch, new_height, new_width, channels)` with the dtype of
        `x`.
    """
    return backend.resize(x, ops.shape(like)[1:3])


@keras.saving.register_keras_serializable(package="keras_cbvit")
class ResizeLike(keras.layers.Layer):
    """`resize_like` as a layer.

    Args:
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of shape `(batch, height, width, channels)`.
        like: tensor of shape `(batch, new_height, new_width, any)`.

    Returns:
        A tensor of shape `(batch, new_height, new_width, channels)` in the layer's
        compute dtype.

    Raises:
        ValueError: if either tensor has another rank.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4)
        self.built = True

    def call(self, inputs: Tensor, like: Tensor) -> Tensor:
        check_shape(self, like.shape)
        return resize_like(inputs, like)

    def compute_output_shape(self, inputs_shape: Shape, like_shape: Shape) -> Shape:
        check_shape(self, inputs_shape)
        check_shape(self, like_shape)
        return (inputs_shape[0], *like_shape[1:3], inputs_shape[-1])

    def get_config(self) -> dict[str, Any]:
        # Without this method, Keras cannot serialize a dtype policy.
        return super().get_config()
