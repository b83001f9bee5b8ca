"""Squeeze-and-excitation of tokens, a baseline of the paper."""

from typing import Any

import keras
from keras import ops

from keras_cbvit import backend
from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import check_shape, fixed_channels, whole_number
from keras_cbvit.layers.initializers import dense_kernel
from keras_cbvit.layers.parts import CompositeLayer
from keras_cbvit.layers.token_dense import TokenDense


@keras.saving.register_keras_serializable(package="keras_cbvit")
class SqueezeExcitation(CompositeLayer):
    """Scales the channels of all tokens by gates computed from the mean token.

    ::

        y = x ⊙ sigmoid(FC(relu(FC(mean of x over the tokens))))

    The baseline of the paper's Tables 2 and 3, in the place of CB. The default ratio is
    that of "Squeeze-and-Excitation Networks" (CVPR 2018).

    Args:
        ratio: reduction ratio of the channels between the two dense layers, which keep
            at least one.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of shape `(batch, tokens, channels)`.

    Returns:
        A tensor of the inputs' shape, in the layer's compute dtype. The mean is
        accumulated in at least float32.

    Raises:
        ValueError: if `ratio` is not a positive whole number, or the inputs have
            another rank.
    """

    def __init__(self, ratio: int = 16, **kwargs: Any):
        super().__init__(**kwargs)
        self.ratio = whole_number("ratio", ratio)
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, input_shape: Shape) -> None:
        channels = fixed_channels(self, input_shape)
        hidden = max(channels // self.ratio, 1)
        self.fc1 = self._dense(hidden, "relu", "fc1")
        self.fc2 = self._dense(channels, "sigmoid", "fc2")
        self.fc1.build((None, channels))
        self.fc2.build((None, hidden))

    def _dense(self, channels, activation, name):
        return TokenDense(
            channels,
            activation=activation,
            kernel_initializer=dense_kernel(),
            **self.part_arguments(name),
            name=name,
        )

    def call(self, inputs: Tensor) -> Tensor:
        mean = backend.mean(inputs, axis=1)
        gate = self.run(self.fc2, self.run(self.fc1, mean))
        return inputs * ops.expand_dims(gate, 1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        check_shape(self, input_shape)
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ratio": self.ratio}
