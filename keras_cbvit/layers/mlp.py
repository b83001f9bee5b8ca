"""The two-layer perceptron of an encoder block."""

from typing import Any, Self

import keras

from keras_cbvit import backend
from keras_cbvit.annotations import Places, Shape, Tensor
from keras_cbvit.arguments import (
    check_memory,
    check_shape,
    choice,
    fixed_channels,
    whole_number,
)
from keras_cbvit.layers.initializers import dense_kernel
from keras_cbvit.layers.parts import CompositeLayer, check_part
from keras_cbvit.layers.places import (
    build_at,
    from_config_at,
    layers_at,
    serialize_at,
)
from keras_cbvit.layers.token_dense import TokenDense

ACTIVATIONS = {
    "gelu": backend.gelu,
    "gelu_tanh": backend.gelu_tanh,
    "quick_gelu": backend.quick_gelu,
    "swiglu": backend.swiglu,
}


def is_gated(activation: str) -> bool:
    """Returns whether one half of the channels gates the other."""
    return activation == "swiglu"


@keras.saving.register_keras_serializable(package="keras_cbvit")
class MLP(CompositeLayer):
    """`<front> FC <mid> FC <end>`, in the notation of the paper's Table 5.

    The first fully connected layer expands the tokens to `hidden_dim` channels and is
    followed by GELU; the second projects them back. Each of the three places takes any
    layers that keep the shape of their inputs; the paper puts `ContextBroadcast` at the
    end.

    Args:
        hidden_dim: channels of the hidden tokens, after the activation.
        front: layers to apply before the first FC, in order: a list, one layer, or
            `None`.
        mid: layers to apply to the hidden tokens, after the activation.
        end: layers to apply after the second FC.
        activation: `"gelu"` (exact), `"gelu_tanh"`, `"quick_gelu"`, or `"swiglu"`, for
            which the first FC has twice as many channels and one half gates the other
            ("GLU Variants Improve Transformer").
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of shape `(batch, tokens, channels)`, or of any other rank from 2
            that the layers at the places take.

    Returns:
        A tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if `hidden_dim` is not a positive whole number, or a place has
            anything but layers that keep the shape of their inputs.
    """

    def __init__(
        self,
        hidden_dim: int,
        front: Places = None,
        mid: Places = None,
        end: Places = None,
        activation: str = "gelu",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.activation = choice("activation", activation, [*ACTIVATIONS])
        self.activate = ACTIVATIONS[activation]
        self.hidden_dim = whole_number("hidden_dim", hidden_dim)
        self.front = layers_at("front", front)
        self.mid = layers_at("mid", mid)
        self.end = layers_at("end", end)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        widened = 2 * self.hidden_dim if is_gated(activation) else self.hidden_dim
        self.fc1 = self._dense(widened, "fc1")

    def _dense(self, channels, name):
        return TokenDense(
            channels,
            kernel_initializer=dense_kernel(),
            **self.part_arguments(name),
            name=name,
        )

    def build(self, input_shape: Shape) -> None:
        channels = fixed_channels(self, input_shape)
        weights = channels * (self.fc1.units + self.hidden_dim)
        check_memory(f"hidden_dim={self.hidden_dim}", weights, self.variable_dtype)
        self.fc2 = self._dense(channels, "fc2")
        hidden_shape = (*input_shape[:-1], self.hidden_dim)
        build_at(self.front, input_shape)
        self.fc1.build(input_shape)
        build_at(self.mid, hidden_shape)
        self.fc2.build(hidden_shape)
        build_at(self.end, input_shape)

    def call(self, inputs: Tensor) -> Tensor:
        x = inputs
        for each in (*self.front, self.fc1):
            x = self.run(each, x)
        x = self.activate(x)
        for each in (*self.mid, self.fc2, *self.end):
            x = self.run(each, x)
        return x

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        check_shape(self, input_shape)
        hidden_shape = (*input_shape[:-1], self.hidden_dim)
        for layers, shape in (
            (self.front, input_shape),
            (self.mid, hidden_shape),
            (self.end, input_shape),
        ):
            for each in layers:
                check_part(each, shape)
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "front": serialize_at(self.front),
            "mid": serialize_at(self.mid),
            "end": serialize_at(self.end),
            "activation": self.activation,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        layers = {
            place: from_config_at(config.get(place))
            for place in ("front", "mid", "end")
        }
        return cls(**{**config, **layers})
