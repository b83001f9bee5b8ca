"""The means of a map over a grid of bins."""

from typing import Any

import keras
from keras import ops

from keras_cbvit import backend
from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import check_shape, whole_number

MOST_BINS = 1000  # along a side


@keras.saving.register_keras_serializable(package="keras_cbvit")
class AdaptiveAveragePooling(keras.layers.Layer):
    """Averages a map of any size over `bins` x `bins` bins.

    The bins are those of PyTorch's `AdaptiveAvgPool2d`: of an axis of n places, bin i
    goes from floor(i n / bins) to ceil((i + 1) n / bins), so that where `bins` does not
    divide n neighbors overlap. It is written as two products with small matrices:
    exact, for sizes that are not known before run time, on every backend.

    Args:
        bins: bins along each side, at most 1000.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of shape `(batch, height, width, channels)`.

    Returns:
        A tensor of shape `(batch, bins, bins, channels)` in the layer's compute dtype.
        Means are accumulated in at least float32.

    Raises:
        ValueError: on other `bins`, or inputs of another rank.
    """

    def __init__(self, bins: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.bins = whole_number("bins", bins, most=MOST_BINS)
        self.input_spec = keras.layers.InputSpec(ndim=4)
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        _, height, width, _ = ops.shape(inputs)
        x = backend.wide(inputs)
        x = ops.einsum("Hh,bhwc->bHwc", self._means(height, x.dtype), x)
        x = ops.einsum("Ww,bhwc->bhWc", self._means(width, x.dtype), x)
        return ops.cast(x, inputs.dtype)

    def _means(self, size, dtype):
        """Weights of shape `(bins, size)`; each row is the mean of a bin."""
        # With a dtype, since torch's symbolic sizes have none that Keras knows.
        bin_index = ops.arange(self.bins, dtype="int32")[:, None]
        place = ops.arange(size, dtype="int32")[None]
        start = bin_index * size // self.bins
        end = ((bin_index + 1) * size + self.bins - 1) // self.bins
        inside = ops.cast(ops.logical_and(place >= start, place < end), dtype)
        return inside / ops.sum(inside, axis=1, keepdims=True)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        check_shape(self, input_shape)
        return (input_shape[0], self.bins, self.bins, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bins": self.bins}
