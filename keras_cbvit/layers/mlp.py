"""The two-layer perceptron of an encoder block."""

import keras

from keras_cbvit.layers import fast
from keras_cbvit.layers.arguments import (
    check_memory,
    check_shape,
    fixed_channels,
    layer,
    whole_number,
)
from keras_cbvit.layers.initializers import dense_kernel
from keras_cbvit.layers.parts import CompositeLayer, check_part, part_from_config
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
        inputs: tensor of shape `(batch, tokens, channels)`, or of any other rank that
            the layers at the places take, from `(batch, channels)` on.

    Returns:
        A tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if `hidden_dim` is no whole number of at least 1, or there is
            something else at a place than a layer that keeps its input's shape.
    """

    def __init__(self, hidden_dim, front=None, mid=None, end=None, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = whole_number("hidden_dim", hidden_dim)
        self.front = layer("front", front)
        self.mid = layer("mid", mid)
        self.end = layer("end", end)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.fc1 = TokenDense(
            self.hidden_dim,
            kernel_initializer=dense_kernel(),
            **self.part_arguments("fc1"),
            name="fc1",
        )

    def build(self, input_shape):
        channels = fixed_channels(self, input_shape)
        weights = 2 * channels * self.hidden_dim
        check_memory(f"hidden_dim={self.hidden_dim}", weights, self.variable_dtype)
        self.fc2 = TokenDense(
            channels,
            kernel_initializer=dense_kernel(),
            **self.part_arguments("fc2"),
            name="fc2",
        )
        hidden_shape = (*input_shape[:-1], self.hidden_dim)
        for step, shape in (
            (self.front, input_shape),
            (self.fc1, input_shape),
            (self.mid, hidden_shape),
            (self.fc2, hidden_shape),
            (self.end, input_shape),
        ):
            if step is not None:
                step.build(shape)
        self._check_parts(input_shape)

    def _check_parts(self, input_shape):
        hidden_shape = (*input_shape[:-1], self.hidden_dim)
        check_part(self.front, input_shape)
        check_part(self.mid, hidden_shape)
        check_part(self.end, input_shape)

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
        check_shape(self, input_shape)
        self._check_parts(input_shape)
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
