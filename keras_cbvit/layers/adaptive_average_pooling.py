"""Adaptive average pooling."""

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

    The bins are those of PyTorch's `AdaptiveAvgPool2d`: along an axis of n positions,
    bin i spans floor(i n / bins) to ceil((i + 1) n / bins), so neighboring bins overlap
    where `bins` does not divide n. Computed as two products with small matrices, which
    is exact on every backend, also for sizes that are unknown until run time.

    Args:
        bins: bins along each side, at most 1000.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of shape `(batch, height, width, channels)`.

    Returns:
        A tensor of shape `(batch, bins, bins, channels)` in the layer's compute dtype.
        Means are accumulated in at least float32.

    Raises:
        ValueError: if `bins` is out of range or the inputs have another rank.
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
        """Returns weights of shape `(bins, size)`; each row averages a bin."""
        # Keras cannot infer a dtype from torch's symbolic sizes.
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
