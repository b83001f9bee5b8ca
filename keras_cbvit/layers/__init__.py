"""The layers of a Vision Transformer with Context Broadcasting."""

from keras_cbvit.layers.class_token_and_position import ClassTokenAndPosition
from keras_cbvit.layers.context_broadcast import ContextBroadcast
from keras_cbvit.layers.drop_path import DropPath
from keras_cbvit.layers.encoder_block import EncoderBlock
from keras_cbvit.layers.mlp import MLP
from keras_cbvit.layers.multi_head_self_attention import MultiHeadSelfAttention
from keras_cbvit.layers.patch_embedding import PatchEmbedding
from keras_cbvit.layers.residual import Residual
from keras_cbvit.layers.squeeze_excitation import SqueezeExcitation
from keras_cbvit.layers.uniform_head_self_attention import UniformHeadSelfAttention

__all__ = [
    "MLP",
    "ClassTokenAndPosition",
    "ContextBroadcast",
    "DropPath",
    "EncoderBlock",
    "MultiHeadSelfAttention",
    "PatchEmbedding",
    "Residual",
    "SqueezeExcitation",
    "UniformHeadSelfAttention",
]
