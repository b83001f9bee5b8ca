"""Batch normalization across devices."""

from typing import Any

import keras

from keras_cbvit import backend
from keras_cbvit.annotations import Shape
from keras_cbvit.arguments import check_shape


@keras.saving.register_keras_serializable(package="keras_cbvit")
class SynchronizedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization with the statistics of the global batch, on every backend.

    Keras's `synchronized=True` only works on TensorFlow. It is not needed elsewhere: on
    JAX a batch sharded over devices is one array, and on torch Keras 3.15 trains on one
    device. Files of this layer load on every backend.

    Momentum and epsilon are the defaults of PyTorch and mmsegmentation.

    Args:
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of rank 2 or more, channels last.
        training: whether to normalize with batch statistics.

    Returns:
        A tensor of the inputs' shape, in the layer's compute dtype.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(
            momentum=0.9,
            epsilon=1e-5,
            synchronized=backend.BACKEND == "tensorflow",
            **kwargs,
        )
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        check_shape(self, input_shape)
        return super().compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return keras.layers.Layer.get_config(self)
