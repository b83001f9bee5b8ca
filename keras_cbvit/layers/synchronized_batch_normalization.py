"""Batch normalization over the batch of all devices."""

from typing import Any

import keras

from keras_cbvit import backend
from keras_cbvit.annotations import Shape
from keras_cbvit.arguments import check_shape


@keras.saving.register_keras_serializable(package="keras_cbvit")
class SynchronizedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization by the statistics of the global batch, on every backend.

    Keras's own has an argument for it that only TensorFlow takes, where each replica of
    a strategy would else have statistics of its own. On JAX a batch spread over devices
    is one array, whose mean is that of all devices as it is; on torch Keras 3.15 trains
    on one device. So a file saved on one backend loads on the others.

    Momentum and epsilon are PyTorch's, which mmsegmentation leaves as they are.

    Args:
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of rank 2 or more, whose last axis is the channels.
        training: whether to normalize by the batch's statistics.

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
