"""Multi-head self-attention."""

from typing import Any

import keras
from keras import ops

from keras_cbvit import backend
from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import (
    check_shape,
    fixed_channels,
    flag,
    norm_epsilon,
    whole_number,
)
from keras_cbvit.layers.initializers import dense_kernel
from keras_cbvit.layers.parts import CompositeLayer
from keras_cbvit.layers.token_dense import TokenDense


@keras.saving.register_keras_serializable(package="keras_cbvit")
class MultiHeadSelfAttention(CompositeLayer):
    """Scaled dot-product self-attention with several heads.

    One dense layer computes queries, keys and values; its output channels are ordered
    (query | key | value), then by head, as in timm. The paper calls this sub-block MSA
    (section 2).

    Args:
        num_heads: number of heads; must divide the number of channels.
        qkv_bias: whether queries, keys and values have a bias.
        qk_norm: whether to apply a layer norm to the queries and to the keys of each
            head, as in "Scaling Vision Transformers to 22 Billion Parameters" (ICML
            2023).
        epsilon: small number that these layer norms add to the variance.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of shape `(batch, tokens, channels)`.
        return_attention_scores: whether to return the attention maps as well.
        training: whether gradients will be computed; only affects speed.

    Returns:
        A tensor of the inputs' shape, in the layer's compute dtype; with
        `return_attention_scores`, a tuple of it and the maps, of shape
        `(batch, num_heads, tokens, tokens)`, whose rows sum to 1.

    Raises:
        ValueError: if `num_heads` is not a positive whole number that divides the
            number of channels, or the inputs have another rank.
    """

    def __init__(
        self,
        num_heads: int,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        epsilon: float = 1e-6,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_heads = whole_number("num_heads", num_heads)
        self.qkv_bias = flag("qkv_bias", qkv_bias)
        self.qk_norm = flag("qk_norm", qk_norm)
        self.epsilon = norm_epsilon("epsilon", epsilon)
        self.input_spec = keras.layers.InputSpec(ndim=3)
        if self.qk_norm:
            self.query_norm = self.layer_norm("query_norm", self.epsilon)
            self.key_norm = self.layer_norm("key_norm", self.epsilon)

    def build(self, input_shape: Shape) -> None:
        channels = fixed_channels(self, input_shape)
        if channels % self.num_heads:
            raise ValueError(
                f"num_heads={self.num_heads} does not divide the {channels} channels "
                "of the tokens."
            )
        self.qkv = self._dense(3 * channels, "qkv", self.qkv_bias)
        self.projection = self._dense(channels, "projection")
        self.qkv.build(input_shape)
        if self.qk_norm:
            by_head = (*input_shape[:2], self.num_heads, channels // self.num_heads)
            self.query_norm.build(by_head)
            self.key_norm.build(by_head)
        self.projection.build(input_shape)

    def _dense(self, channels, name, use_bias=True):
        return TokenDense(
            channels,
            use_bias=use_bias,
            kernel_initializer=dense_kernel(),
            **self.part_arguments(name),
            name=name,
        )

    def call(
        self,
        inputs: Tensor,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        x, scores = self.attend(inputs, return_attention_scores, training)
        x = self.run(self.projection, x)
        return (x, scores) if return_attention_scores else x

    def attend(
        self, inputs: Tensor, return_attention_scores: bool, training: bool | None
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the concatenated outputs of the heads, and their maps or `None`."""
        tokens = ops.shape(inputs)[1]
        channels = self.qkv.units // 3
        x = self.run(self.qkv, inputs)
        query, key, value = backend.split_heads(x, self.num_heads)
        if self.qk_norm:
            query = self.run(self.query_norm, query)
            key = self.run(self.key_norm, key)
        if return_attention_scores:
            x, scores = backend.attention_with_scores(query, key, value)
        else:
            x, scores = backend.attention(query, key, value, training), None
        return backend.reshape(x, (-1, tokens, channels)), scores

    @property
    def number_of_maps(self) -> int:
        """Number of attention maps per image."""
        return self.num_heads

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        check_shape(self, input_shape)
        return input_shape

    def compute_output_spec(
        self,
        inputs: Tensor,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Any:
        output = keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)
        if not return_attention_scores:
            return output
        batch, tokens = inputs.shape[:2]
        scores_shape = (batch, self.number_of_maps, tokens, tokens)
        return output, keras.KerasTensor(scores_shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "qkv_bias": self.qkv_bias,
            "qk_norm": self.qk_norm,
            "epsilon": self.epsilon,
        }
