"""Pools tokens into one vector."""

from typing import Any

import keras
from keras import ops

from keras_cbvit import backend
from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import check_shape, choice, whole_number

POOLINGS = ("token", "avg", "token_avg", "distillation", "distilled")


@keras.saving.register_keras_serializable(package="keras_cbvit")
class TokenPooling(keras.layers.Layer):
    """Pools tokens into one vector.

    Args:
        pooling: `"token"` for the first token, the class token; `"avg"` for the mean of
            the patch tokens; `"token_avg"` for the concatenation of both;
            `"distillation"` for the second token, DeiT's distillation token;
            `"distilled"` for the mean of the first two.
        num_prefix_tokens: number of tokens before the patch tokens.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of shape `(batch, prefix + tokens, channels)`.

    Returns:
        A tensor of shape `(batch, channels)`, or `(batch, 2 * channels)` for
        `"token_avg"`, in the layer's compute dtype. The mean is accumulated in at least
        float32.

    Raises:
        ValueError: if `pooling` is unknown, or the inputs have another rank.
    """

    def __init__(self, pooling: str, num_prefix_tokens: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.pooling = choice("pooling", pooling, POOLINGS)
        self.num_prefix_tokens = whole_number(
            "num_prefix_tokens", num_prefix_tokens, least=0
        )
        self.input_spec = keras.layers.InputSpec(ndim=3)
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        if self.pooling == "token":
            return inputs[:, 0]
        if self.pooling == "distillation":
            return inputs[:, 1]
        if self.pooling == "distilled":
            return backend.mean(inputs[:, :2], axis=1)
        mean = backend.mean(inputs[:, self.num_prefix_tokens :], axis=1)
        if self.pooling == "avg":
            return mean
        return ops.concatenate([inputs[:, 0], mean], axis=-1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        check_shape(self, input_shape)
        batch, _, channels = input_shape
        if channels is not None and self.pooling == "token_avg":
            channels *= 2
        return (batch, channels)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pooling": self.pooling,
            "num_prefix_tokens": self.num_prefix_tokens,
        }
