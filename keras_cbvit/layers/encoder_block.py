"""One block of a Vision Transformer's encoder."""

from typing import Any, Self

import keras

from keras_cbvit.annotations import Places, Shape, Tensor
from keras_cbvit.arguments import (
    check_shape,
    drop_rate,
    fixed_channels,
    flag,
    layer,
    norm_epsilon,
    whole_number,
)
from keras_cbvit.layers.drop_path import DropPath
from keras_cbvit.layers.mlp import MLP
from keras_cbvit.layers.multi_head_self_attention import MultiHeadSelfAttention
from keras_cbvit.layers.parts import CompositeLayer, check_part, part_from_config
from keras_cbvit.layers.places import (
    build_at,
    from_config_at,
    layers_at,
    serialize_at,
)

PLACES = ("msa_end", "mlp_front", "mlp_mid", "mlp_end")
"""The places in a block for additional layers."""


@keras.saving.register_keras_serializable(package="keras_cbvit")
class EncoderBlock(CompositeLayer):
    """A pre-norm transformer block with four places for layers such as CB.

    ::

        x = x + drop_path(<msa_end> attention(norm1(x)))
        x = x + drop_path(mlp(norm2(x)))      mlp: <front> FC <mid> FC <end>

    It is a single layer because Keras keeps the output of every node of a model's graph
    alive until a call ends, which is slow on torch. It also skips Keras's overhead when
    it calls its sublayers (`CompositeLayer.run`).

    Args:
        num_heads: number of attention heads; must divide the number of channels.
        mlp_dim: channels of the MLP's hidden tokens.
        drop_path_rate: probability of dropping each branch for a sample.
        remat: whether to recompute the activations of each branch in the backward pass,
            which takes less memory and more time. The branches must then not use
            random numbers.
        epsilon: small number that the layer norms add to the variance.
        attention: optional replacement for the `MultiHeadSelfAttention` layer.
        msa_end: layers to apply to the output of the attention, in order: a list, one
            layer, or `None`. They must keep the shape of their inputs.
        mlp_front, mlp_mid, mlp_end: likewise for the places in the MLP; the paper's
            choice (Tables 4 and 5) is CB at `mlp_end`.
        activation: activation of the `MLP`.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of shape `(batch, tokens, channels)`. Masks are ignored.
        training: whether to drop paths.

    Returns:
        A tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if an argument is invalid, the inputs have another rank, or
            `num_heads` does not divide the number of channels.
    """

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        drop_path_rate: float = 0.0,
        remat: bool = False,
        epsilon: float = 1e-6,
        attention: keras.layers.Layer | None = None,
        msa_end: Places = None,
        mlp_front: Places = None,
        mlp_mid: Places = None,
        mlp_end: Places = None,
        activation: str = "gelu",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_heads = whole_number("num_heads", num_heads)
        self.mlp_dim = whole_number("mlp_dim", mlp_dim)
        self.drop_path_rate = rate = drop_rate("drop_path_rate", drop_path_rate)
        self.remat = flag("remat", remat)
        self.epsilon = norm_epsilon("epsilon", epsilon)
        self.msa_end = layers_at("msa_end", msa_end)
        self.input_spec = keras.layers.InputSpec(ndim=3)
        dtype = self.dtype_policy
        self.norm1 = self.layer_norm("norm1", self.epsilon)
        self.attention = layer("attention", attention) or MultiHeadSelfAttention(
            self.num_heads, **self.part_arguments("attention"), name="attention"
        )
        self.drop_path1 = DropPath(rate, dtype=dtype, name="drop_path1")
        self.norm2 = self.layer_norm("norm2", self.epsilon)
        self.mlp = MLP(
            self.mlp_dim,
            layers_at("mlp_front", mlp_front),
            layers_at("mlp_mid", mlp_mid),
            layers_at("mlp_end", mlp_end),
            activation,
            **self.part_arguments("mlp"),
            name="mlp",
        )
        self.drop_path2 = DropPath(rate, dtype=dtype, name="drop_path2")

    def build(self, input_shape: Shape) -> None:
        fixed_channels(self, input_shape)
        for part in (self.norm1, self.attention, self.norm2, self.mlp):
            part.build(input_shape)
        build_at(self.msa_end, input_shape)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        def msa(x):
            x = self.run(self.norm1, x)
            x = self.run(self.attention, x, training=training)
            for each in self.msa_end:
                x = self.run(each, x)
            return x

        def mlp(x):
            return self.run(self.mlp, self.run(self.norm2, x))

        if self.remat and training:
            # Not `keras.RematScope`, which would draw new paths to drop.
            msa, mlp = keras.remat(msa), keras.remat(mlp)
        x = inputs + self.run(self.drop_path1, msa(inputs), training=training)
        return x + self.run(self.drop_path2, mlp(x), training=training)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        check_shape(self, input_shape)
        for each in self.msa_end:
            check_part(each, input_shape)
        self.mlp.compute_output_shape(input_shape)
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "drop_path_rate": self.drop_path_rate,
            "remat": self.remat,
            "epsilon": self.epsilon,
            "attention": keras.saving.serialize_keras_object(self.attention),
            "msa_end": serialize_at(self.msa_end),
            "mlp_front": serialize_at(self.mlp.front),
            "mlp_mid": serialize_at(self.mlp.mid),
            "mlp_end": serialize_at(self.mlp.end),
            "activation": self.mlp.activation,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        layers = {place: from_config_at(config.get(place)) for place in PLACES}
        if config.get("attention"):
            layers["attention"] = part_from_config(config["attention"])
        return cls(**{**config, **layers})
