"""Counts multiply-accumulates and parameters of models."""

import dataclasses
import math

import keras

from keras_cbvit.internals import layers_within
from keras_cbvit.layers import (
    ContextBroadcast,
    MultiHeadSelfAttention,
    PatchEmbedding,
    SqueezeExcitation,
    UniformHeadSelfAttention,
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """The operations of a layer for one image, and its parameters."""

    matmul_macs: int = 0
    """Multiply-accumulates of matrix products: dense layers and attention."""
    context_macs: int = 0
    """Operations that add context to the tokens of a ViT."""
    parameters: int = 0

    def __add__(self, other):
        return Cost(
            self.matmul_macs + other.matmul_macs,
            self.context_macs + other.context_macs,
            self.parameters + other.parameters,
        )


def layer_costs(model: keras.Model) -> dict[str, Cost]:
    """Counts multiply-accumulates and parameters of every layer, for one image.

    Counted from the layers and the shapes they were built for. Matrix products are
    those that papers count as FLOPs: each kernel once per token, and the two products
    of attention. Biases, norms, LayerScale, softmax, GELU and residual sums are not
    counted.

    Operations for context are counted separately and completely: an addition, a
    multiplication, or a multiply-accumulate is one operation. `ContextBroadcast` takes
    `channels` per token for the mean (or maximum), as many for its sum with the tokens,
    and `channels` per image for its weight, 0.5 or Λ. `SqueezeExcitation` takes the
    same for mean and gate, and two dense layers on one vector. For a uniform head, only
    the mean counts.

    Args:
        model: a model of this package.

    Returns:
        A dict of `Cost` by layer name, in the order of the layers; an encoder block is
        one layer.

    Raises:
        ValueError: if the model has an unknown layer with a kernel, or takes images of
            any size.
    """
    return {
        layer.name: Cost(*_macs(layer), layer.count_params()) for layer in model.layers
    }


def total_cost(model: keras.Model) -> Cost:
    """Returns the sum of `layer_costs` over all layers.

    Args:
        model: a model of this package.

    Raises:
        ValueError: as `layer_costs`.
    """
    return sum(layer_costs(model).values(), Cost())


def _macs(layer):
    """Returns the operations of matrix products and of context."""
    matmul, context = 0, 0
    for inner in layers_within(layer, recursive=False):
        inner_matmul, inner_context = _macs(inner)
        matmul += inner_matmul
        context += inner_context
    if isinstance(layer, PatchEmbedding):
        # Its dense layer was built without a number of tokens and counted for one.
        _, tokens, _ = _check_tokens(layer, layer.compute_output_shape(_shape(layer)))
        return tokens * matmul, 0
    if isinstance(layer, keras.layers.Dense):
        *positions, channels = _shape(layer)[1:]
        return math.prod(n or 1 for n in positions) * channels * layer.units, 0
    if isinstance(layer, MultiHeadSelfAttention):
        _, tokens, channels = _check_tokens(layer, _shape(layer))
        matmul += 2 * tokens**2 * (layer.qkv.units // 3)
        if isinstance(layer, UniformHeadSelfAttention):
            context += (tokens + 1) * channels
    elif isinstance(layer, SqueezeExcitation):
        _, tokens, channels = _check_tokens(layer, _shape(layer))
        return 0, matmul + (2 * tokens + 1) * channels
    elif isinstance(layer, ContextBroadcast):
        _, tokens, channels = _check_tokens(layer, _shape(layer))
        summed = tokens if layer.context == "token" else 2 * tokens
        return 0, (summed + 1) * channels
    elif hasattr(layer, "kernel"):
        raise ValueError(
            f"Cannot count the multiply-accumulates of {layer.path}, a "
            f"{type(layer).__name__}; only dense layers and layers of this package are "
            "supported."
        )
    return matmul, context


def _shape(layer):
    """Returns the input shape that a layer was built for."""
    return layer.get_build_config()["input_shape"]


def _check_tokens(layer, shape):
    """Raises a ValueError unless a shape has a known number of tokens."""
    if shape[1] is None:
        raise ValueError(
            f"{layer.path} is built for images of any size, so its number of tokens is "
            "unknown; build the model with input_shape=(height, width, 3)."
        )
    return shape
