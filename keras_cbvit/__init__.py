"""Vision Transformers with Context Broadcasting for Keras 3.

The backend is Keras's: set `KERAS_BACKEND` to `tensorflow`, `jax` or `torch`.
"""

from keras_cbvit import analysis, layers
from keras_cbvit.layers import ContextBroadcast
from keras_cbvit.models import ablations
from keras_cbvit.models.builders import ViTCB, ViTCB_B, ViTCB_S, ViTCB_Ti
from keras_cbvit.models.segmentation_model import SegmentationModel
from keras_cbvit.models.segmenting import predict_sliding, predict_whole
from keras_cbvit.models.upernet import (
    UperNet,
    UperNet_ViTCB_B,
    UperNet_ViTCB_S,
    UperNet_ViTCB_Ti,
    feature_pyramid,
    with_auxiliary_head,
)
from keras_cbvit.models.vision_transformer import VisionTransformer
from keras_cbvit.pretrained.catalog import list_weights
from keras_cbvit.pretrained.loading import load_model
from keras_cbvit.pretrained.predictions import class_names, decode_predictions
from keras_cbvit.pretrained.publishing import publish
from keras_cbvit.pretrained.timm import load_timm_weights

__version__ = "0.1.0"
__all__ = [
    "ContextBroadcast",
    "SegmentationModel",
    "UperNet",
    "UperNet_ViTCB_B",
    "UperNet_ViTCB_S",
    "UperNet_ViTCB_Ti",
    "ViTCB",
    "ViTCB_B",
    "ViTCB_S",
    "ViTCB_Ti",
    "VisionTransformer",
    "ablations",
    "analysis",
    "class_names",
    "decode_predictions",
    "feature_pyramid",
    "layers",
    "list_weights",
    "load_model",
    "load_timm_weights",
    "predict_sliding",
    "predict_whole",
    "publish",
    "with_auxiliary_head",
]
