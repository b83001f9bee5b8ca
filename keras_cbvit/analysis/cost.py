"""What a model costs: multiply-accumulates and parameters, counted from its layers."""

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
    """The work that a layer does for one image, and its size."""

    matmul_macs: int = 0
    """Multiply-accumulates of the products of matrices: dense layers and attention."""
    context_macs: int = 0
    """Operations of what is added to a ViT to give its tokens context."""
    parameters: int = 0

    def __add__(self, other):
        return Cost(
            self.matmul_macs + other.matmul_macs,
            self.context_macs + other.context_macs,
            self.parameters + other.parameters,
        )


def layer_costs(model: keras.Model) -> dict[str, Cost]:
    """Multiply-accumulates and parameters of every layer, for one image.

    Counted from the layers and the shapes they were built for. The products of
    matrices are those that papers count as FLOPs: each kernel once per token it is
    applied to, and the two products of attention. Biases, norms, LayerScale,
    softmax, GELU and residual sums are left out.

    What gives context is counted apart, completely: an addition, a multiplication, or
    both at once is one operation. `ContextBroadcast` takes `channels` of them per token
    for the mean (or maximum), as many for its sum with the tokens, and `channels` per
    image for its weight, 0.5 or Λ. `SqueezeExcitation` takes the same for mean and
    gate, and two dense layers on one vector. Of a uniform head it is the mean alone.

    Args:
        model: a model of this package.

    Returns:
        A dict of `Cost` by the layer's name, in the order of the layers; an encoder
        block is one.

    Raises:
        ValueError: if the model has a layer with a kernel of an unknown kind, or takes
            images of any size.
    """
    return {
        layer.name: Cost(*_macs(layer), layer.count_params()) for layer in model.layers
    }


def total_cost(model: keras.Model) -> Cost:
    """The sum of `layer_costs` over the layers, a `Cost`.

    Args:
        model: a model of this package.

    Raises:
        ValueError: as `layer_costs`.
    """
    return sum(layer_costs(model).values(), Cost())


def _macs(layer):
    """Multiply-accumulates of the products of matrices, and of what gives context."""
    matmul, context = 0, 0
    for inner in layers_within(layer, recursive=False):
        inner_matmul, inner_context = _macs(inner)
        matmul += inner_matmul
        context += inner_context
    if isinstance(layer, PatchEmbedding):
        # Its dense layer was built for no number of tokens, and counted for one.
        _, tokens, _ = _known(layer, layer.compute_output_shape(_shape(layer)))
        return tokens * matmul, 0
    if isinstance(layer, keras.layers.Dense):
        *positions, channels = _shape(layer)[1:]
        return math.prod(n or 1 for n in positions) * channels * layer.units, 0
    if isinstance(layer, MultiHeadSelfAttention):
        _, tokens, channels = _known(layer, _shape(layer))
        matmul += 2 * tokens**2 * (layer.qkv.units // 3)
        if isinstance(layer, UniformHeadSelfAttention):
            context += (tokens + 1) * channels
    elif isinstance(layer, SqueezeExcitation):
        _, tokens, channels = _known(layer, _shape(layer))
        return 0, matmul + (2 * tokens + 1) * channels
    elif isinstance(layer, ContextBroadcast):
        _, tokens, channels = _known(layer, _shape(layer))
        summed = tokens if layer.context == "token" else 2 * tokens
        return 0, (summed + 1) * channels
    elif hasattr(layer, "kernel"):
        raise ValueError(
            f"The multiply-accumulates of {layer.path}, a {type(layer).__name__}, are "
            "unknown; dense layers and the layers of this package can be counted."
        )
    return matmul, context


def _shape(layer):
    """The shape of the inputs that a layer was built for."""
    return layer.get_build_config()["input_shape"]


def _known(layer, shape):
    """A shape of tokens whose number is known."""
    if shape[1] is None:
        raise ValueError(
            f"{layer.path} is built for images of any size, whose number of tokens is "
            "unknown; count a model of one size, by input_shape=(height, width, 3)."
        )
    return shape
