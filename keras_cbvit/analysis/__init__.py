"""The paper's analyses of trained models, and the cost of a model."""

from keras_cbvit.analysis.attention import (
    attention_entropy,
    attention_maps,
    attention_statistics,
    relative_distance,
    softmax_jacobian_norm,
)
from keras_cbvit.analysis.cost import Cost, layer_costs, total_cost
from keras_cbvit.analysis.outputs import layer_outputs
from keras_cbvit.analysis.scale import channel_scales, scale_layers, scale_statistics

__all__ = [
    "Cost",
    "attention_entropy",
    "attention_maps",
    "attention_statistics",
    "channel_scales",
    "layer_costs",
    "layer_outputs",
    "relative_distance",
    "scale_layers",
    "scale_statistics",
    "softmax_jacobian_norm",
    "total_cost",
]
