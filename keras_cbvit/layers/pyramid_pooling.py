"""The pyramid pooling module of PSPNet."""

from typing import Any

import keras
from keras import ops

from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import check_shape, fixed_channels, whole_number
from keras_cbvit.layers.adaptive_average_pooling import AdaptiveAveragePooling
from keras_cbvit.layers.conv_bn_relu import ConvBNReLU
from keras_cbvit.layers.resize_like import resize_like

BINS = (1, 2, 3, 6)


@keras.saving.register_keras_serializable(package="keras_cbvit")
class PyramidPooling(keras.layers.Layer):
    """Concatenates a map with its averages at four scales and fuses them.

    ::

        y = conv3x3([x, resize(conv1x1(pool(x))) for pools of 1, 2, 3 and 6 bins])

    From "Pyramid Scene Parsing Network" (CVPR 2017), followed by UperNet's convolution;
    each convolution is a `ConvBNReLU`.

    Args:
        channels: output channels of each convolution.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of shape `(batch, height, width, channels)`.
        training: whether to normalize with batch statistics.

    Returns:
        A tensor of shape `(batch, height, width, channels)` in the layer's compute
        dtype.

    Raises:
        ValueError: if `channels` is not a positive whole number, or the inputs have
            another rank.
    """

    def __init__(self, channels: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.channels = channels = whole_number("channels", channels)
        self.input_spec = keras.layers.InputSpec(ndim=4)
        dtype = self.dtype_policy
        self.pools = [
            AdaptiveAveragePooling(bins, dtype=dtype, name=f"pool_{bins}")
            for bins in BINS
        ]
        self.projections = [
            ConvBNReLU(channels, 1, dtype=dtype, name=f"projection_{bins}")
            for bins in BINS
        ]
        self.fusion = ConvBNReLU(channels, 3, dtype=dtype, name="fusion")

    def build(self, input_shape: Shape) -> None:
        inputs = fixed_channels(self, input_shape)
        for projection in self.projections:
            projection.build(input_shape)
        channels = inputs + len(BINS) * self.channels
        self.fusion.build((*input_shape[:-1], channels))

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        scales = [inputs]
        for pool, projection in zip(self.pools, self.projections, strict=True):
            mean = projection(pool(inputs), training=training)
            scales.append(resize_like(mean, inputs))
        return self.fusion(ops.concatenate(scales, axis=-1), training=training)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        check_shape(self, input_shape)
        return (*input_shape[:-1], self.channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channels": self.channels}
