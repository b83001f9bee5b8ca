"""Vision Transformers of the paper's ablations that `ViTCB` does not build.

Each is a class of its own, that changes the blocks of a `VisionTransformer`; `ablate`
makes one of a model that `ViTCB` built.
"""

import keras

from keras_cbvit.layers import (
    MLP,
    MultiHeadSelfAttention,
    Residual,
    SqueezeExcitation,
    UniformHeadSelfAttention,
)
from keras_cbvit.layers.arguments import choice
from keras_cbvit.models.arguments import mlp_dim
from keras_cbvit.models.vision_transformer import VisionTransformer
from keras_cbvit.pretrained.loading import refuse_other_model


class _UniformHead(VisionTransformer):
    """One head of each block attends to all tokens alike (Table 1)."""

    @classmethod
    def heads(cls, hidden_dim, num_heads):
        """The number of softmax heads, and the channels of every head."""
        raise NotImplementedError

    @classmethod
    def encoder_block(cls, i, config, dtype, **parts):
        heads = cls.heads(config["hidden_dim"], config["num_heads"])
        attention = UniformHeadSelfAttention(*heads, dtype=dtype, name="attention")
        return super().encoder_block(i, config, dtype, attention=attention, **parts)


@keras.saving.register_keras_serializable(package="keras_cbvit")
class UniformHeadReplaced(_UniformHead):
    """One head is replaced by a uniform one ("Replc" of Table 1)."""

    @classmethod
    def heads(cls, hidden_dim, num_heads):
        if num_heads < 2:
            raise ValueError(
                "num_heads=1 leaves no head with softmax when a uniform head replaces "
                "one; take 2 or more."
            )
        return num_heads - 1, hidden_dim // num_heads


@keras.saving.register_keras_serializable(package="keras_cbvit")
class UniformHeadCompensated(UniformHeadReplaced):
    """One head is replaced, and all are widened ("Comp." of Table 1).

    The project's reading: to the width at which the number of parameters is nearest to
    the original's. For ViT-Ti, S and B: 77, 70 and 67 channels a head for 64.
    """

    @classmethod
    def heads(cls, hidden_dim, num_heads):
        softmax_heads, _ = super().heads(hidden_dim, num_heads)
        # Of all parameters but the bias of the projection, for each channel of a head:
        # queries, keys and values with biases, the uniform head's values, projection.
        each = (3 * softmax_heads + 1) * (hidden_dim + 1) + num_heads * hidden_dim
        original = 4 * hidden_dim**2 + 3 * hidden_dim
        return softmax_heads, round(original / each)


@keras.saving.register_keras_serializable(package="keras_cbvit")
class UniformHeadAttached(_UniformHead):
    """A uniform head is added beside the others ("Att." of Table 1)."""

    @classmethod
    def heads(cls, hidden_dim, num_heads):
        return num_heads, hidden_dim // num_heads


@keras.saving.register_keras_serializable(package="keras_cbvit")
class SqueezeExcitationViT(VisionTransformer):
    """Squeeze-and-excitation at the end of every MLP (Tables 2 and 3)."""

    @classmethod
    def encoder_block(cls, i, config, dtype, **parts):
        mlp_end = SqueezeExcitation(dtype=dtype, name="squeeze_excitation")
        return super().encoder_block(i, config, dtype, mlp_end=mlp_end, **parts)


@keras.saving.register_keras_serializable(package="keras_cbvit")
class ExtraMSA(VisionTransformer):
    """One more MSA after the last block (Figure 2)."""

    @classmethod
    def encoder_blocks(cls, config, dtype):
        msa = MultiHeadSelfAttention(config["num_heads"], dtype=dtype, name="attention")
        extra = Residual(msa, dtype=dtype, name="extra_msa")
        return [*super().encoder_blocks(config, dtype), extra]


@keras.saving.register_keras_serializable(package="keras_cbvit")
class ExtraMLP(VisionTransformer):
    """One more MLP after the last block (Figure 2)."""

    @classmethod
    def encoder_blocks(cls, config, dtype):
        mlp = MLP(mlp_dim(config), dtype=dtype, name="mlp")
        extra = Residual(mlp, dtype=dtype, name="extra_mlp")
        return [*super().encoder_blocks(config, dtype), extra]


ABLATIONS = {
    "uniform_replaced": UniformHeadReplaced,
    "uniform_compensated": UniformHeadCompensated,
    "uniform_attached": UniformHeadAttached,
    "squeeze_excitation": SqueezeExcitationViT,
    "extra_msa": ExtraMSA,
    "extra_mlp": ExtraMLP,
}


def ablate(model, ablation):
    """A model of an ablation, with random weights.

    Args:
        model: a plain `VisionTransformer`, `ViTCB(broadcast=None, ...)`, whose
            arguments the other one gets.
        ablation: one of `ABLATIONS`.

    Raises:
        ValueError: on an unknown ablation, on a model with CB, or on heads that leave
            none to replace.
    """
    ablation = choice("ablation", ablation, ABLATIONS)
    refuse_other_model(model)
    config = model.get_config()
    if config["broadcast"]:
        raise ValueError(
            f"ablation={ablation!r} changes the plain ViT; build the model with "
            f"broadcast=None, not {config['broadcast']!r}."
        )
    name = f"{config['name']}_{ablation}"
    return ABLATIONS[ablation].from_config({**config, "name": name})
