"""The layers of a Vision Transformer with Context Broadcasting, and of UperNet."""

from keras_cbvit.layers.adaptive_average_pooling import AdaptiveAveragePooling
from keras_cbvit.layers.context_broadcast import ContextBroadcast
from keras_cbvit.layers.conv_bn_relu import ConvBNReLU
from keras_cbvit.layers.drop_path import DropPath
from keras_cbvit.layers.encoder_block import EncoderBlock
from keras_cbvit.layers.fcn_head import FCNHead
from keras_cbvit.layers.feature_scales import FeatureScales
from keras_cbvit.layers.layer_scale import LayerScale
from keras_cbvit.layers.mlp import MLP
from keras_cbvit.layers.multi_head_self_attention import MultiHeadSelfAttention
from keras_cbvit.layers.patch_embedding import PatchEmbedding
from keras_cbvit.layers.pyramid_pooling import PyramidPooling
from keras_cbvit.layers.residual import Residual
from keras_cbvit.layers.resize_like import ResizeLike
from keras_cbvit.layers.squeeze_excitation import SqueezeExcitation
from keras_cbvit.layers.synchronized_batch_normalization import (
    SynchronizedBatchNormalization,
)
from keras_cbvit.layers.token_embedding import TokenEmbedding
from keras_cbvit.layers.token_map import TokenMap
from keras_cbvit.layers.token_pooling import TokenPooling
from keras_cbvit.layers.uniform_head_self_attention import UniformHeadSelfAttention
from keras_cbvit.layers.uper_head import UperHead

__all__ = [
    "MLP",
    "AdaptiveAveragePooling",
    "ContextBroadcast",
    "ConvBNReLU",
    "DropPath",
    "EncoderBlock",
    "FCNHead",
    "FeatureScales",
    "LayerScale",
    "MultiHeadSelfAttention",
    "PatchEmbedding",
    "PyramidPooling",
    "Residual",
    "ResizeLike",
    "SqueezeExcitation",
    "SynchronizedBatchNormalization",
    "TokenEmbedding",
    "TokenMap",
    "TokenPooling",
    "UniformHeadSelfAttention",
    "UperHead",
]
