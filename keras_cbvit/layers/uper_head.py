"""The head of UperNet."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import check_maps, drop_rate, whole_number
from keras_cbvit.layers.conv_bn_relu import ConvBNReLU
from keras_cbvit.layers.fcn_head import FCNHead
from keras_cbvit.layers.pyramid_pooling import PyramidPooling
from keras_cbvit.layers.resize_like import resize_like


@keras.saving.register_keras_serializable(package="keras_cbvit")
class UperHead(keras.layers.Layer):
    """A top-down feature pyramid with pyramid pooling on its coarsest map.

    ::

        top = pyramid_pooling(coarsest)
        each finer map: lateral = conv1x1(map) + resize(the coarser lateral, or top)
        y = head([conv3x3(lateral) for each finer map, top], resized to the finest)

    From "Unified Perceptual Parsing for Scene Understanding" (ECCV 2018), as in
    mmsegmentation's `UPerHead`; `head`, the fusion and classifier, is an `FCNHead`.

    Args:
        classes: number of classes.
        channels: channels of all hidden maps.
        dropout_rate: probability of dropping a channel of a sample before the
            classifier.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: a list of feature maps of shape `(batch, height, width, channels)`, the
            finest first. Their sizes and channels may differ.
        training: whether to apply dropout and normalize with batch statistics.

    Returns:
        Logits of shape `(batch, height, width, classes)`, with the size of the finest
        map, in the layer's compute dtype.

    Raises:
        ValueError: if an argument is invalid, or the inputs are not a list of maps.
    """

    def __init__(
        self, classes: int, channels: int, dropout_rate: float = 0.1, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.classes = classes = whole_number("classes", classes)
        self.channels = channels = whole_number("channels", channels)
        self.dropout_rate = rate = drop_rate("dropout_rate", dropout_rate)
        dtype = self.dtype_policy
        self.pyramid_pooling = PyramidPooling(
            channels, dtype=dtype, name="pyramid_pooling"
        )
        self.head = FCNHead(classes, channels, rate, dtype=dtype, name="head")

    def build(self, input_shape: Sequence[Shape]) -> None:
        check_maps(self, input_shape)
        *finer, coarsest = input_shape
        self.lateral_convolutions = self._convolutions(1, "lateral", len(finer))
        self.output_convolutions = self._convolutions(3, "output", len(finer))
        self.pyramid_pooling.build(coarsest)
        for lateral, output, shape in zip(
            self.lateral_convolutions, self.output_convolutions, finer, strict=True
        ):
            lateral.build(shape)
            output.build((*shape[:-1], self.channels))
        finest = input_shape[0]
        self.head.build((*finest[:-1], len(input_shape) * self.channels))

    def _convolutions(self, kernel_size, name, number):
        return [
            ConvBNReLU(
                self.channels, kernel_size, dtype=self.dtype_policy, name=f"{name}_{i}"
            )
            for i in range(number)
        ]

    def call(self, inputs: Sequence[Tensor], training: bool | None = None) -> Tensor:
        check_maps(self, [tuple(x.shape) for x in inputs])
        *finer, coarsest = inputs
        x = self.pyramid_pooling(coarsest, training=training)
        levels = [x]
        for i in reversed(range(len(finer))):
            lateral = self.lateral_convolutions[i](finer[i], training=training)
            x = lateral + resize_like(x, lateral)
            levels.insert(0, self.output_convolutions[i](x, training=training))
        finest = levels[0]
        levels = [finest, *(resize_like(level, finest) for level in levels[1:])]
        return self.head(ops.concatenate(levels, axis=-1), training=training)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        check_maps(self, input_shape)
        return (*input_shape[0][:-1], self.classes)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "classes": self.classes,
            "channels": self.channels,
            "dropout_rate": self.dropout_rate,
        }
