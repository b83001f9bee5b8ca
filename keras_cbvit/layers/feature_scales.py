"""Rescales four feature maps of one size to a pyramid."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_cbvit import backend
from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import check_maps
from keras_cbvit.layers.initializers import patch_kernel
from keras_cbvit.layers.synchronized_batch_normalization import (
    SynchronizedBatchNormalization,
)


@keras.saving.register_keras_serializable(package="keras_cbvit")
class FeatureScales(keras.layers.Layer):
    """Rescales four maps of a Vision Transformer to 4, 2, 1 and 1/2 times their size.

    With patches of 16 pixels the strides are 4, 8, 16 and 32, like the stages of a
    convolutional network. As in XCiT's and BEiT's segmentation:

    ::

        y0 = up(gelu(batch_norm(up(x0))))     up: transposed convolution 2x2, stride 2
        y1 = up(x1)
        y2 = x2
        y3 = max_pool2x2(x3)

    Args:
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: a list of four tensors of shape `(batch, height, width, channels)`.
        training: whether to normalize with batch statistics.

    Returns:
        A list of four tensors in the layer's compute dtype, the finest first, with the
        channels of the inputs. Max pooling ignores an odd last row or column.

    Raises:
        ValueError: if the inputs are not four maps, or the last one has fewer than two
            rows or columns.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.norm = SynchronizedBatchNormalization(dtype=self.dtype_policy, name="norm")
        self.pool = keras.layers.MaxPooling2D(
            2, data_format="channels_last", dtype=self.dtype_policy, name="pool"
        )

    def build(self, input_shape: Sequence[Shape]) -> None:
        check_maps(self, input_shape, number=4)
        finest, fine = input_shape[0], input_shape[1]
        self.up4_first = self._up(finest, "up4_first")
        self.up4_second = self._up(finest, "up4_second")
        self.up2 = self._up(fine, "up2")
        self.norm.build(finest)

    def _up(self, shape, name):
        up = keras.layers.Conv2DTranspose(
            shape[-1],
            2,
            strides=2,
            data_format="channels_last",
            kernel_initializer=patch_kernel(),
            dtype=self.dtype_policy,
            name=name,
        )
        up.build(shape)
        return up

    def call(
        self, inputs: Sequence[Tensor], training: bool | None = None
    ) -> list[Tensor]:
        self._check([tuple(x.shape) for x in inputs])
        finest, fine, middle, coarse = inputs
        finest = self.norm(self.up4_first(finest), training=training)
        finest = self.up4_second(backend.gelu(finest))
        return [finest, self.up2(fine), middle, self.pool(coarse)]

    def _check(self, shapes):
        check_maps(self, shapes, number=4)
        _, height, width, _ = shapes[3]
        if any(isinstance(side, int) and side < 2 for side in (height, width)):
            raise ValueError(
                f"Feature maps of {height}x{width} patches are too small; images must "
                "have at least 2x2 patches."
            )

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> list[Shape]:
        self._check(input_shape)

        def scale_shape(shape, scale):
            sides = (side and int(side * scale) for side in shape[1:3])
            return (shape[0], *sides, shape[-1])

        scales = (4, 2, 1, 0.5)
        return [
            scale_shape(s, scale) for s, scale in zip(input_shape, scales, strict=True)
        ]

    def get_config(self) -> dict[str, Any]:
        # Without this method, Keras cannot serialize a dtype policy.
        return super().get_config()
