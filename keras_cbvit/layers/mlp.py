"""The two-layer perceptron of an encoder block."""

import keras

from keras_cbvit.layers import fast
from keras_cbvit.layers.initializers import dense_kernel
from keras_cbvit.layers.parts import CompositeLayer, part_from_config
from keras_cbvit.layers.token_dense import TokenDense


@keras.saving.register_keras_serializable(package="keras_cbvit")
class MLP(CompositeLayer):
    """`<front> FC <mid> FC <end>`, in the notation of the paper's Table 5.

    The first fully connected layer widens the tokens to `hidden_dim` and is
    followed by GELU (the exact one), the second brings them back. Any layer that
    keeps its input's shape can be put at the three places; the paper puts
    `ContextBroadcast` at the end.

    Args:
        hidden_dim: channels of the hidden tokens.
        front: optional layer for the input of the first FC.
        mid: optional layer for the hidden tokens, after the activation.
        end: optional layer for the output of the second FC.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of shape `(batch, tokens, channels)`.

    Returns:
        A tensor of the inputs' shape, in the layer's compute dtype.
    """

    def __init__(self, hidden_dim, front=None, mid=None, end=None, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.front = front
        self.mid = mid
        self.end = end
        self.fc1 = TokenDense(
            hidden_dim,
            kernel_initializer=dense_kernel(),
            **self.part_arguments("fc1"),
            name="fc1",
        )

    def build(self, input_shape):
        self.fc2 = TokenDense(
            input_shape[-1],
            kernel_initializer=dense_kernel(),
            **self.part_arguments("fc2"),
            name="fc2",
        )
        hidden_shape = (*input_shape[:-1], self.hidden_dim)
        for layer, shape in (
            (self.front, input_shape),
            (self.fc1, input_shape),
            (self.mid, hidden_shape),
            (self.fc2, hidden_shape),
            (self.end, input_shape),
        ):
            if layer is not None:
                layer.build(shape)

    def call(self, inputs):
        x = inputs
        for step in (
            self.front,
            self.fc1,
            fast.gelu,
            self.mid,
            self.fc2,
            self.end,
        ):
            if step is not None:
                x = step(x)
        return x

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "front": keras.saving.serialize_keras_object(self.front),
            "mid": keras.saving.serialize_keras_object(self.mid),
            "end": keras.saving.serialize_keras_object(self.end),
        }

    @classmethod
    def from_config(cls, config):
        layers = {
            place: part_from_config(config.get(place))
            for place in ("front", "mid", "end")
        }
        return cls(**{**config, **layers})
