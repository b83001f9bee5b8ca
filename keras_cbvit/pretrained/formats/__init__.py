"""Reads files and objects of weights, with one module per format.

Each module returns a `Content`: the spec, and the weights by this package's names. A
module for another library's state dicts defines `recognize(names)` and `read(arrays,
config, source, given)`, and for live models `from_model(model)`.
"""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_cbvit.arguments import format_value
from keras_cbvit.models.vision_transformer import VisionTransformer
from keras_cbvit.pretrained.formats import (
    hugging_face,
    keras_files,
    keras_hub,
    state_dicts,
    timm,
)
from keras_cbvit.pretrained.formats.content import Content

SUFFIXES = (*keras_files.SUFFIXES, *state_dicts.SUFFIXES)
"""Suffixes of weights files."""
STATE_DICTS = (timm, hugging_face)
"""The modules that read state dicts, in the order in which they are tried."""
# The modules that read live models, by the package of the models' classes.
_PACKAGES = {"timm": timm, "transformers": hugging_face, "keras_hub": keras_hub}
# Unsupported networks, by a part of a name in their state dicts.
_OTHERS = {
    "relative_position_bias_table": "a Swin Transformer",
    "layer1.0.conv1.": "a ResNet",
    "layer1.0.conv2.": "a ResNet",
    "encoder.stages.0.layers.0.layer.0.convolution": "a ResNet of transformers",
    "stages.0.blocks.0.conv_dw.": "a ConvNeXt",
    "stages.0.0.dwconv.": "a ConvNeXt",
    "stages.0.layers.0.dwconv.": "a ConvNeXt of transformers",
    "features.0.0.": "a convolutional network of torchvision",
    "blocks.0.0.conv_pw": "an EfficientNet or MobileNet",
    "blocks.0.0.conv_dw": "an EfficientNet or MobileNet",
    "attention.self.query": "a BERT or another text model",
    "wte.weight": "a GPT or another text model",
    "model.layers.0.self_attn": "a language model",
    "text_model.encoder": "a CLIP with its text tower",
    "lora_A": "a LoRA adapter without its model",
}


def is_own(source: Any) -> bool:
    """Returns whether a source is a file or model of this package."""
    is_path = isinstance(source, str | os.PathLike)
    is_file = is_path and str(source).endswith(keras_files.SUFFIXES)
    return is_file or isinstance(source, VisionTransformer)


def recognize_folder(path: Path) -> bool:
    """Returns whether a folder has weights in Hugging Face's or KerasHub's layout."""
    names = state_dicts.FILES
    return keras_hub.recognize_folder(path) or any((path / n).is_file() for n in names)


def read(source: Any, given: Mapping[str, Any] | None = None) -> Content:
    """Reads a source of weights.

    Args:
        source: the path of a `.keras`, `.weights.h5`, `.safetensors`, `.pth`, `.pt` or
            `.bin` file or of a folder in Hugging Face's or KerasHub's layout; a state
            dict; or a live model of another library or a `VisionTransformer`.
        given: fields of `ViTSpec` from the user, for what the source does not specify,
            such as the number of heads of a state dict without its configuration.

    Raises:
        ValueError: if the source is damaged or not supported.
        ImportError: if a package that reads it is not installed.
        OSError: if the source cannot be read.
    """
    if isinstance(source, Mapping):
        arrays = state_dicts.unwrap(state_dicts.with_arrays(source))
        if not arrays:
            raise ValueError(
                f"weights={format_value(source)} contains no named weights."
            )
        return read_state_dict(arrays, None, "the state dict", given)
    if not isinstance(source, str | os.PathLike):
        return _read_model(source)
    path = Path(source)
    if is_own(path):
        return keras_files.read(path)
    if keras_hub.recognize_folder(path):
        return keras_hub.read_folder(path)
    arrays, config = state_dicts.read(path)
    return read_state_dict(arrays, config, str(path), given)


def read_state_dict(
    arrays: Mapping[str, np.ndarray],
    config: dict[str, Any] | None,
    source: str,
    given: Mapping[str, Any] | None = None,
) -> Content:
    """Reads a state dict of any supported library.

    Args:
        arrays: NumPy arrays by the library's names.
        config: the library's configuration, or `None`.
        source: name of the state dict in messages.
        given: as for `read`.

    Raises:
        ValueError: if no module recognizes the names.
    """
    for library in STATE_DICTS:
        if library.recognize(arrays.keys()):
            content = library.read(arrays, config, source, given)
            if config is None:
                _warn_of_assumptions(content, given or {})
            return content
    for part, kind in _OTHERS.items():
        if any(part in name for name in arrays):
            raise ValueError(
                f"The weights of {source} are those of {kind}, not of a supported "
                "Vision Transformer."
            )
    first = next(iter(arrays))
    raise ValueError(
        f"The names of the weights of {source} match no supported Vision Transformer; "
        f"the first of {len(arrays)} is {format_value(first)}."
    )


def _warn_of_assumptions(content, given):
    """Warns of the fields that are assumed for weights without a configuration."""
    assumed = {
        field: getattr(content.spec, field)
        for field in ("num_heads", "mean", "std")
        if field not in given
    }
    if assumed:
        values = ", ".join(f"{field}={value}" for field, value in assumed.items())
        warnings.warn(
            f"{content.source} has no configuration; assuming {values}. Pass the "
            "arguments that differ.",
            stacklevel=2,
        )


def _read_model(model):
    if isinstance(model, VisionTransformer):
        return keras_files.from_model(model)
    for kind in type(model).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in _PACKAGES:
            return _PACKAGES[package].from_model(model)
    known = ", ".join(_PACKAGES)
    raise ValueError(
        f"weights={format_value(model)} must be None, a name, a handle such as "
        f"'hf://owner/name', a path, a state dict, or a model of {known}."
    )
