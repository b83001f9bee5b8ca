"""Vision Transformers with Context Broadcasting for Keras 3.

Set `KERAS_BACKEND` to `tensorflow`, `jax` or `torch` before the import.
"""

try:
    import keras  # noqa: F401
except ModuleNotFoundError as error:
    _package = (error.name or "").partition(".")[0]
    if _package not in ("tensorflow", "jax", "torch"):
        raise
    # The chain of Keras's own imports would hide the message.
    raise ModuleNotFoundError(
        f"The backend {_package} is not installed. Set KERAS_BACKEND to another of "
        "tensorflow, jax and torch, or install it: "
        f'pip install "keras_cbvit[{_package}]"',
        name=_package,
    ) from None

from keras_cbvit import analysis, export, layers
from keras_cbvit.backend import keep_freed_memory
from keras_cbvit.classifier import Classifier
from keras_cbvit.export import Export, export_model
from keras_cbvit.layers import ContextBroadcast
from keras_cbvit.models.fine_tuning import (
    freeze_backbone,
    layer_decay,
    unfreeze,
)
from keras_cbvit.models.folding import fold_context_broadcast
from keras_cbvit.models.inference import predict_sliding, predict_whole
from keras_cbvit.models.insertion import insert_context_broadcast
from keras_cbvit.models.lora import enable_lora, merge_lora
from keras_cbvit.models.lora_files import load_lora_weights, save_lora_weights
from keras_cbvit.models.registry import register_model
from keras_cbvit.models.segmentation import (
    FeaturePyramid,
    SegmentationModel,
    feature_pyramid,
)
from keras_cbvit.models.spec import ViTSpec
from keras_cbvit.models.vision_transformer import VisionTransformer
from keras_cbvit.optimizer import AdamW
from keras_cbvit.pretrained.loading import load_model
from keras_cbvit.pretrained.predictions import class_names, decode_predictions
from keras_cbvit.pretrained.publishing import publish
from keras_cbvit.pretrained.records import Evaluation, Preprocessing
from keras_cbvit.pretrained.sources import list_weights
from keras_cbvit.zoo import (
    UperNet_ViTCB,
    UperNet_ViTCB_B,
    UperNet_ViTCB_S,
    UperNet_ViTCB_Ti,
    ViTCB,
    ViTCB_B,
    ViTCB_S,
    ViTCB_Ti,
    create_model,
    list_models,
)

__version__ = "0.1.0"
__all__ = [
    "AdamW",
    "Classifier",
    "ContextBroadcast",
    "Evaluation",
    "Export",
    "FeaturePyramid",
    "Preprocessing",
    "SegmentationModel",
    "UperNet_ViTCB",
    "UperNet_ViTCB_B",
    "UperNet_ViTCB_S",
    "UperNet_ViTCB_Ti",
    "ViTCB",
    "ViTCB_B",
    "ViTCB_S",
    "ViTCB_Ti",
    "ViTSpec",
    "VisionTransformer",
    "analysis",
    "class_names",
    "create_model",
    "decode_predictions",
    "enable_lora",
    "export",
    "export_model",
    "feature_pyramid",
    "fold_context_broadcast",
    "freeze_backbone",
    "insert_context_broadcast",
    "keep_freed_memory",
    "layer_decay",
    "layers",
    "list_models",
    "list_weights",
    "load_lora_weights",
    "load_model",
    "merge_lora",
    "predict_sliding",
    "predict_whole",
    "publish",
    "register_model",
    "save_lora_weights",
    "unfreeze",
]
