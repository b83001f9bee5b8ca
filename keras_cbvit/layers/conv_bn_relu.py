"""A convolution, batch normalization and ReLU."""

from typing import Any

import keras

from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import (
    check_memory,
    check_shape,
    fixed_channels,
    refuse,
    whole_number,
)
from keras_cbvit.layers.initializers import convolution_kernel
from keras_cbvit.layers.synchronized_batch_normalization import (
    SynchronizedBatchNormalization,
)


@keras.saving.register_keras_serializable(package="keras_cbvit")
class ConvBNReLU(keras.layers.Layer):
    """`relu(batch_norm(convolution(x)))`, the building block of segmentation heads.

    The convolution has stride 1, `"same"` padding and no bias.

    Args:
        channels: output channels.
        kernel_size: side of the kernel, an odd number.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of shape `(batch, height, width, channels)`.
        training: whether to normalize with batch statistics.

    Returns:
        A tensor of shape `(batch, height, width, channels)` in the layer's compute
        dtype.

    Raises:
        ValueError: if `channels` or `kernel_size` is invalid, or the inputs have
            another rank.
    """

    def __init__(self, channels: int, kernel_size: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.channels = whole_number("channels", channels)
        self.kernel_size = whole_number("kernel_size", kernel_size)
        if not self.kernel_size % 2:
            refuse("kernel_size", kernel_size, "must be an odd number.")
        self.input_spec = keras.layers.InputSpec(ndim=4)
        self.convolution = keras.layers.Conv2D(
            self.channels,
            self.kernel_size,
            padding="same",
            data_format="channels_last",
            use_bias=False,
            kernel_initializer=convolution_kernel(),
            dtype=self.dtype_policy,
            name="convolution",
        )
        self.norm = SynchronizedBatchNormalization(dtype=self.dtype_policy, name="norm")

    def build(self, input_shape: Shape) -> None:
        inputs = fixed_channels(self, input_shape)
        weights = self.kernel_size**2 * inputs * self.channels
        check_memory(f"channels={self.channels}", weights, self.variable_dtype)
        self.convolution.build(input_shape)
        self.norm.build(self.compute_output_shape(input_shape))

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        x = self.norm(self.convolution(inputs), training=training)
        return keras.ops.relu(x)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        check_shape(self, input_shape)
        return (*input_shape[:-1], self.channels)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "channels": self.channels,
            "kernel_size": self.kernel_size,
        }
