"""The class token and the position embedding."""

import keras
from keras import ops

from keras_cbvit.layers.arguments import check_shape, fixed_channels
from keras_cbvit.layers.initializers import dense_kernel


@keras.saving.register_keras_serializable(package="keras_cbvit")
class ClassTokenAndPosition(keras.layers.Layer):
    """Puts a learnable class token first and adds a learnable position embedding.

    Args:
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of shape `(batch, tokens, channels)`; the number of tokens
            is fixed when the layer is built.

    Returns:
        A tensor of shape `(batch, 1 + tokens, channels)` in the layer's compute
        dtype.

    Raises:
        ValueError: if the inputs have another rank, or other tokens or channels than
            the layer was built for.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, input_shape):
        channels = fixed_channels(self, input_shape)
        tokens = input_shape[1]
        if tokens is None:
            raise ValueError(
                f"{self.name} has an embedding for each token, but inputs of shape "
                f"{tuple(input_shape)} have an unknown number of tokens."
            )
        self.class_token = self.add_weight(
            name="class_token",
            shape=(1, 1, channels),
            initializer=dense_kernel(),
        )
        self.position_embedding = self.add_weight(
            name="position_embedding",
            shape=(1, 1 + tokens, channels),
            initializer=dense_kernel(),
        )
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={1: tokens, 2: channels})

    def call(self, inputs):
        return self._add_to(inputs, self.position_embedding)

    def _add_to(self, inputs, position_embedding):
        class_token = ops.cast(self.class_token, inputs.dtype)
        class_token = ops.broadcast_to(
            class_token, (ops.shape(inputs)[0], 1, inputs.shape[-1])
        )
        x = ops.concatenate([class_token, inputs], axis=1)
        return x + ops.cast(position_embedding, x.dtype)

    def compute_output_shape(self, input_shape):
        check_shape(self, input_shape)
        batch, tokens, channels = input_shape
        return (batch, None if tokens is None else 1 + tokens, channels)

    def get_config(self):
        # Without a method of its own, a layer given a policy as dtype has no config.
        return super().get_config()
