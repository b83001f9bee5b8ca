"""Loads weights into models, completely."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cbvit import classes
from keras_cbvit.arguments import field_value
from keras_cbvit.models.difference import difference
from keras_cbvit.models.registry import FAMILIES, SIZES, architecture_of_spec
from keras_cbvit.models.spec import ViTSpec
from keras_cbvit.models.vision_transformer import (
    HEADS,
    PATCHES,
    TOKENS,
    VisionTransformer,
)
from keras_cbvit.pretrained import formats
from keras_cbvit.pretrained.adaptation import adapt_filters, resample
from keras_cbvit.pretrained.formats import keras_files
from keras_cbvit.pretrained.formats.content import Content
from keras_cbvit.pretrained.records import WeightsRecord
from keras_cbvit.pretrained.sources import locate

PROJECTION = f"{PATCHES}/projection"
CHANNEL_SCALE = "context_broadcast"
"""Name of the layers that have a Λ."""
# Models that differ in one of these fields cannot share weights.
ARCHITECTURE = (
    "hidden_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "patch_size",
    "class_token",
    "distillation_token",
    "num_register_tokens",
    "prefix_position_embedding",
    "pre_norm",
    "qkv_bias",
    "qk_norm",
)
# The projection before each LayerScale, by path in a block.
_SCALED = {"layer_scale": "attention/projection", "mlp/layer_scale": "mlp/fc2"}


def load_model(weights: Any) -> keras.Model:
    """Loads a complete model from published weights or a file.

    For models that are used unchanged, such as published UperNets. For a Vision
    Transformer with another head, size or dtype, see `ViTCB`.

    Args:
        weights: a full name such as `"vitcb_s.imagenet"` (see `list_weights()`), the
            path of a `.keras` file, or weights from another library as for `ViTCB`: a
            handle such as `"hf://owner/name"`, a file, a folder or a live model.
            Published files are downloaded if necessary and verified.

    Returns:
        The `keras.Model` in the file, not compiled; for weights from another library, a
        `VisionTransformer`. Models of this package have `class_names`, from the file
        or else from the record.

    Raises:
        ValueError: if the name is unknown, the file is damaged or has no model, Keras
            cannot or will not load a part of it, or its class names differ from those
            of its record.
        FileNotFoundError: if the file does not exist.
        OSError: if the file cannot be downloaded or does not match its record.
    """
    return load_with_record(weights)[0]


def load_with_record(weights: Any) -> tuple[keras.Model, WeightsRecord | None]:
    """Like `load_model`, but also returns the record of published weights."""
    source, record = locate_source(weights)
    if not isinstance(source, Path) or not formats.is_own(source):
        content = formats.read(source)
        assert content.spec is not None
        name = architecture_of_spec(content.spec) or FAMILIES[content.spec.broadcast]
        model = VisionTransformer(content.spec, name=name)
        assign(model, content)
    elif source.suffix != ".keras":
        raise ValueError(
            f"{source} has weights but no model; build the model with "
            "ViTCB(weights=...) and the arguments it was built with."
        )
    else:
        model = keras_files.load(source)
    if record is not None:
        name_classes(model, record)
    return model, record


def locate_source(
    weights: Any, *architectures: str
) -> tuple[Any, WeightsRecord | None]:
    """Resolves `weights=` for `formats.read`: a verified file, or a live model.

    Arguments, record and errors are those of `sources.locate`.
    """
    if isinstance(weights, str | os.PathLike):
        return locate(weights, *architectures)
    return weights, None


def merge(content: Content, given: dict) -> ViTSpec:
    """Returns the spec of a model for some weights.

    Args:
        content: the weights.
        given: fields of `ViTSpec` from the user, which override those of the content.

    Raises:
        ValueError: if the weights do not fit the fields, or the fields are not
            compatible.
    """
    found = content.spec
    if found is None:
        return ViTSpec(**given)
    _check_architecture(content, given)
    given = dict(given)
    if "input_shape" in given:
        shape = field_value(ViTSpec, "input_shape", given["input_shape"])
        given.setdefault("position_grid", found.grid if None in shape else None)
        if shape[2] != len(found.mean):
            for field in ("mean", "std"):
                average = sum(getattr(found, field)) / len(found.mean)
                given.setdefault(field, (average,) * shape[2])
    return found.replace(**given)


def _check_architecture(content, given):
    for key in ARCHITECTURE:
        own = getattr(content.spec, key)
        if key in given and not _is_same(content.spec, key, given[key]):
            other = ""
            if key in SIZES["s"]:  # which ViTCB_S and other sizes set
                other = ", or use ViTCB, which takes the architecture of the weights"
            raise ValueError(
                f"The weights of {content.source} have {key}={own}, not {given[key]}; "
                f"remove {key}{other}."
            )


def _is_same(spec, key, given):
    if key == "mlp_ratio":  # after rounding to hidden channels
        return spec.replace(mlp_ratio=given).mlp_dim == spec.mlp_dim
    return field_value(ViTSpec, key, given) == getattr(spec, key)


def fold_layer_scale(content: Content) -> Content:
    """Folds the factors of LayerScale into the preceding projections.

    A model without LayerScale then computes the same: γ multiplies the kernel and the
    bias of the attention's projection and of the MLP's second layer. CB and CB_S in
    between commute with it: the mean of scaled tokens is the scaled mean, and Λ, like
    γ, has one number per channel.

    Args:
        content: the weights of a model with LayerScale.

    Returns:
        The content without LayerScale.

    Raises:
        ValueError: if the model has no LayerScale, or a layer in between does not
            commute with γ: squeeze-and-excitation, or CB with `"max"` where a γ is
            negative.
    """
    spec = content.spec
    if spec is None or spec.layer_scale is None:
        raise ValueError(
            f"{content.source} has no LayerScale; remove fold_layer_scale."
        )
    if spec.squeeze_excitation:
        raise ValueError(
            f"The LayerScale of {content.source} cannot be folded, since it follows "
            "squeeze-and-excitation."
        )
    weights = dict(content.weights)
    for i in range(spec.depth):
        for scale, projection in _SCALED.items():
            paths = f"block_{i}/{scale}", f"block_{i}/{projection}"
            (gamma, *_), *_ = arrays = [weights.get(path, [None]) for path in paths]
            if any(array is None for each in arrays for array in each):
                raise ValueError(f"{content.source} has no weights for {paths[0]}.")
            if (gamma < 0).any() and spec.broadcast != "none" and spec.context == "max":
                raise ValueError(
                    f"The LayerScale of {content.source} cannot be folded: {paths[0]} "
                    "has negative factors, which do not commute with context='max'."
                )
            del weights[paths[0]]
            weights[paths[1]] = [array * gamma for array in arrays[1]]
    return dataclasses.replace(
        content, weights=weights, spec=spec.replace(layer_scale=None)
    )


def assign(
    model: VisionTransformer,
    content: Content,
    new_head: bool = False,
    allow_other_function: bool = False,
) -> None:
    """Loads weights into a model, and the class names with the head.

    All weights must match, with these exceptions: a new head, a Λ of CB_S that the
    content does not have, a position embedding for another grid of patches, which is
    resampled, and a patch embedding for another number of channels, which is adapted.

    Args:
        model: the model.
        content: the weights.
        new_head: whether to keep the head of the model.
        allow_other_function: whether the model may compute another function than the
            model of the weights.

    Raises:
        ValueError: if a weight is missing, unexpected or of another shape, or the model
            computes another function. Nothing is loaded then.
    """
    spec = model.spec
    values = dict(content.weights)
    if new_head or spec.classes is None:
        values = {path: each for path, each in values.items() if path not in HEADS}
    targets = {}
    for name, weight in model.weights_by_name().items():
        targets.setdefault(name.rpartition("/")[0], []).append((name, weight))
    if new_head:
        targets = {path: each for path, each in targets.items() if path not in HEADS}
    if TOKENS in values and content.spec is not None:
        values[TOKENS] = resample(values[TOKENS], content.spec, spec.grid)
    if PROJECTION in values and content.spec is not None:
        channels = content.spec.input_shape[2], spec.input_shape[2]
        values[PROJECTION] = adapt_filters(values[PROJECTION], *channels)
    new_scales = []
    if content.spec is not None:  # else all weights must match
        new_scales = _scales(spec) - _scales(content.spec) - values.keys()
    targets = {path: pairs for path, pairs in targets.items() if path not in new_scales}
    _check_fit(content, values, targets)
    if content.spec is not None and not allow_other_function:
        _check_function(content, spec, new_head)
    for path, pairs in targets.items():
        for (_, weight), value in zip(pairs, values[path], strict=True):
            weight.assign(value)
    if spec.classes is not None and not new_head:
        model.class_names = content.class_names


def _scales(spec):
    """Returns the paths of the layers with a Λ."""
    return {
        f"block_{i}/{'' if place == 'msa_end' else 'mlp/'}{CHANNEL_SCALE}"
        for (i, place), (scale, _) in spec.contexts().items()
        if scale
    }


def _check_fit(content, values, targets):
    """Raises a ValueError that lists the weights that do not match."""
    missing, unexpected, mismatched = [], [], []
    for path in targets.keys() | values.keys():
        wanted, found = targets.get(path, ()), values.get(path, ())
        for i in range(max(len(wanted), len(found))):
            names = content.names.get(path, ())
            ours = wanted[i][0] if i < len(wanted) else f"{path} ({i})"
            name = names[i] if i < len(names) else ours
            if i >= len(found) or found[i] is None:
                missing.append(name)
            elif i >= len(wanted):
                unexpected.append(name if wanted or path in content.names else path)
            elif np.shape(found[i]) != tuple(wanted[i][1].shape):
                shapes = f"{np.shape(found[i])} for {tuple(wanted[i][1].shape)}"
                mismatched.append(f"{ours} {shapes}")
    problems = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape": mismatched,
    }
    if not any(problems.values()):
        return
    text = "; ".join(
        f"{what}: {', '.join(sorted({*names})[:8])}"
        + (f" and {len({*names}) - 8} more" if len({*names}) > 8 else "")
        for what, names in problems.items()
        if names
    )
    hint = " Pass the arguments that the model of the file was built with; unlike a "
    hint += ".keras file, a .weights.h5 file does not contain them."
    raise ValueError(
        f"The weights of {content.source} do not match this model; nothing was loaded. "
        f"{text[0].upper()}{text[1:]}.{'' if content.spec else hint}"
    )


def _check_function(content, spec, new_head):
    key = difference(content.spec, spec, new_head)
    if key is None:
        return
    if key == "broadcast" and not content.spec.contexts():
        raise ValueError(
            f"The weights of {content.source} are from a plain ViT; with broadcast="
            f"{spec.broadcast!r} they compute another function. Start from broadcast="
            "'cbs', which computes the same and learns to broadcast, or convert them "
            "to CB with `keras-cbvit train imagenet_anneal` (`--anneal-context` in any "
            "recipe). To load them anyway, pass allow_other_function=True."
        )
    found, given = getattr(content.spec, key), getattr(spec, key)
    raise ValueError(
        f"The weights of {content.source} are from a model with {key}={found!r:.80}; "
        f"with {key}={given!r:.80} they compute another function. Use {key}="
        f"{found!r:.80}, or pass allow_other_function=True."
    )


def name_classes(model: keras.Model, record: WeightsRecord) -> None:
    """Sets the class names of a model from its record, if it has none.

    Raises:
        ValueError: if the model has other names.
    """
    names = record.class_names
    # Other kinds of models have no names; some records have duplicate names.
    if not hasattr(model, "class_names") or not names or len(set(names)) < len(names):
        return
    what = f"class_names of the record {record.name!r}"
    if model.class_names is None:
        model.class_names = names
    elif other := classes.difference(
        "the record",
        classes.check_names(names, what=what),
        "the file",
        model.class_names,
    ):
        raise ValueError(f"{what} differ from those of its file: {other}.")
