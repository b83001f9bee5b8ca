"""Self-attention with an additional uniform head."""

from typing import Any

import keras
from keras import ops

from keras_cbvit import backend
from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import fixed_channels, whole_number
from keras_cbvit.layers.multi_head_self_attention import MultiHeadSelfAttention


@keras.saving.register_keras_serializable(package="keras_cbvit")
class UniformHeadSelfAttention(MultiHeadSelfAttention):
    """Multi-head self-attention with an additional head of uniform attention.

    The uniform head (section 3.1 and Table 1 of the paper) outputs the mean of its
    values over all tokens, so it has no queries or keys. Since the mean of the values
    equals the value of the mean token, it projects one vector per image.

    Args:
        num_heads: number of softmax heads, not counting the uniform one.
        head_dim: channels of each head.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of shape `(batch, tokens, channels)`.
        return_attention_scores: whether to return the attention maps as well.
        training: whether gradients will be computed; only affects speed.

    Returns:
        A tensor of the inputs' shape, in the layer's compute dtype; with
        `return_attention_scores`, a tuple of it and the maps, of shape
        `(batch, num_heads + 1, tokens, tokens)`, the uniform one last.

    Raises:
        ValueError: if `num_heads` or `head_dim` is not a positive whole number, or the
            inputs have another rank.
    """

    def __init__(self, num_heads: int, head_dim: int, **kwargs: Any):
        super().__init__(num_heads, **kwargs)
        self.head_dim = whole_number("head_dim", head_dim)
        self.qkv = self._dense(3 * self.num_heads * self.head_dim, "qkv")
        self.uniform_value = self._dense(self.head_dim, "uniform_value")

    def build(self, input_shape: Shape) -> None:
        channels = fixed_channels(self, input_shape)
        batch, tokens, _ = input_shape
        self.projection = self._dense(channels, "projection")
        self.qkv.build(input_shape)
        self.uniform_value.build((batch, 1, channels))
        self.projection.build((batch, tokens, self.number_of_maps * self.head_dim))

    def attend(
        self, inputs: Tensor, return_attention_scores: bool, training: bool | None
    ) -> tuple[Tensor, Tensor | None]:
        x, scores = super().attend(inputs, return_attention_scores, training)
        tokens = ops.shape(inputs)[1]
        mean = backend.mean(inputs, axis=1, keepdims=True)
        uniform = self.run(self.uniform_value, mean)
        x = ops.concatenate([x, ops.repeat(uniform, tokens, axis=1)], axis=-1)
        if return_attention_scores:
            uniform_scores = ops.ones_like(scores[:, :1]) / tokens
            scores = ops.concatenate([scores, uniform_scores], axis=1)
        return x, scores

    @property
    def number_of_maps(self) -> int:
        return self.num_heads + 1

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        for name in (
            "qkv_bias",
            "qk_norm",
            "epsilon",
        ):  # not of this layer
            del config[name]
        return {**config, "head_dim": self.head_dim}
