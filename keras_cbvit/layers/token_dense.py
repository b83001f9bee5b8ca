"""A dense layer for tokens."""

import keras

from keras_cbvit.layers import fast


@keras.saving.register_keras_serializable(package="keras_cbvit")
class TokenDense(keras.layers.Dense):
    """Keras's `Dense` for tokens: the same values, faster (`keras_cbvit.layers.fast`).

    Args:
        units: output channels.
        **kwargs: those of `keras.layers.Dense`, whose bias it always has.

    Call arguments:
        inputs: tensor of shape `(batch, tokens, channels)`.

    Returns:
        A tensor of shape `(batch, tokens, units)` in the layer's compute dtype.
    """

    def call(self, inputs, training=None):
        x = fast.dense(inputs, self.kernel, self.bias)
        return x if self.activation is None else self.activation(x)

    def quantize(self, mode=None, type_check=True, config=None):
        # Keras refuses subclasses, which might compute something else.
        super().quantize(mode, type_check=False, config=config)
