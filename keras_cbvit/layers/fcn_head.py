"""The fully convolutional auxiliary head."""

from typing import Any

import keras

from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import (
    check_memory,
    check_shape,
    drop_rate,
    fixed_channels,
    whole_number,
)
from keras_cbvit.layers.conv_bn_relu import ConvBNReLU
from keras_cbvit.layers.initializers import classifier_kernel


@keras.saving.register_keras_serializable(package="keras_cbvit")
class FCNHead(keras.layers.Layer):
    """Classifies each position of one feature map: conv3x3, dropout, conv1x1.

    mmsegmentation's `FCNHead` with one convolution, a `ConvBNReLU`. Dropout drops whole
    channels.

    Args:
        classes: number of classes.
        channels: channels between the convolutions.
        dropout_rate: probability of dropping a channel of a sample.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of shape `(batch, height, width, channels)`.
        training: whether to apply dropout and normalize with batch statistics.

    Returns:
        Logits of shape `(batch, height, width, classes)` in the layer's compute dtype.

    Raises:
        ValueError: if an argument is invalid or the inputs have another rank.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 256,
        dropout_rate: float = 0.1,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.classes = whole_number("classes", classes)
        self.channels = whole_number("channels", channels)
        self.dropout_rate = drop_rate("dropout_rate", dropout_rate)
        self.input_spec = keras.layers.InputSpec(ndim=4)
        dtype = self.dtype_policy
        self.convolution = ConvBNReLU(self.channels, 3, dtype=dtype, name="convolution")
        self.dropout = keras.layers.SpatialDropout2D(
            self.dropout_rate, data_format="channels_last", dtype=dtype, name="dropout"
        )
        self.classifier = keras.layers.Conv2D(
            self.classes,
            1,
            data_format="channels_last",
            kernel_initializer=classifier_kernel(),
            dtype=dtype,
            name="classifier",
        )

    def build(self, input_shape: Shape) -> None:
        fixed_channels(self, input_shape)
        self.convolution.build(input_shape)
        weights = self.channels * self.classes
        check_memory(f"classes={self.classes}", weights, self.variable_dtype)
        self.classifier.build((*input_shape[:-1], self.channels))

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        x = self.convolution(inputs, training=training)
        return self.classifier(self.dropout(x, training=training))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        check_shape(self, input_shape)
        return (*input_shape[:-1], self.classes)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "classes": self.classes,
            "channels": self.channels,
            "dropout_rate": self.dropout_rate,
        }
