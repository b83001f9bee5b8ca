"""From a file of weights to a model that has them, all of them."""

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
"""What the layer of a Λ is called, at any place."""
# Two models that differ in one of these cannot share weights, or not their meaning.
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
# What LayerScale multiplies the outputs of, by the path of each in a block.
_SCALED = {"layer_scale": "attention/projection", "mlp/layer_scale": "mlp/fc2"}


def load_model(weights: Any) -> keras.Model:
    """Loads a whole model: of published weights, or of a `.keras` file.

    For models that are used as they are, such as published UperNets. For a Vision
    Transformer with another head, size or dtype, see `ViTCB`.

    Args:
        weights: a full name such as `"vitcb_s.imagenet"`, see `list_weights()`, the
            path of a `.keras` file, or whatever `ViTCB` takes of another zoo's: a
            handle such as `"hf://owner/name"`, a file, a folder or a live model. The
            file of a name is verified, and downloaded if need be.

    Returns:
        The `keras.Model` in the file, not compiled; of another zoo's weights, the
        `VisionTransformer` that they are of. A model of this package has `class_names`,
        those of its record if its file has none.

    Raises:
        ValueError: on an unknown name, a file that is damaged or has no model, or a
            model with parts that Keras does not know or would not load, or whose class
            names are not those of its record.
        FileNotFoundError: on the path of a file that does not exist.
        OSError: if the file cannot be downloaded, or is not the one of its record.
    """
    return load_with_record(weights)[0]


def load_with_record(weights: Any) -> tuple[keras.Model, WeightsRecord | None]:
    """What `load_model` loads, and its record; `None` of a handle, path or live model.

    The argument and the errors are those of `load_model`.
    """
    source, record = locate_source(weights)
    if not isinstance(source, Path) or not formats.is_own(source):
        content = formats.read(source)
        assert content.spec is not None
        name = architecture_of_spec(content.spec) or FAMILIES[content.spec.broadcast]
        model = VisionTransformer(content.spec, name=name)
        assign(model, content)
    elif source.suffix != ".keras":
        raise ValueError(
            f"{source} holds weights alone, without their model; build the model with "
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
    """What `formats.read` takes for `weights=`: a verified file, or a live model.

    The arguments, the record and the errors are those of `sources.locate`.
    """
    if isinstance(weights, str | os.PathLike):
        return locate(weights, *architectures)
    return weights, None


def merge(content: Content, given: dict) -> ViTSpec:
    """The spec of a model that is to get some weights.

    Args:
        content: the weights.
        given: fields of `ViTSpec` that the user asks for. They override those of the
            content.

    Raises:
        ValueError: if the two cannot share weights, or the fields do not go together.
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
        if key in given and not _agrees(content.spec, key, given[key]):
            other = ""
            if key in SIZES["s"]:  # which the caller of ViTCB_S has not given
                other = "; use ViTCB, which takes the architecture of the weights"
            raise ValueError(
                f"The weights of {content.source} have {key}={own}, not {given[key]}. "
                f"Leave out {key}{other}."
            )


def _agrees(spec, key, given):
    if key == "mlp_ratio":  # several give the same hidden channels
        return spec.replace(mlp_ratio=given).mlp_dim == spec.mlp_dim
    return field_value(ViTSpec, key, given) == getattr(spec, key)


def fold_layer_scale(content: Content) -> Content:
    """The content with the factors of LayerScale in the projections before it.

    A model without LayerScale computes the same with it: γ goes into the kernel and the
    bias of the attention's projection and of the MLP's second layer. CB and CB_S lie
    between those and LayerScale, and change nothing of that: the mean of tokens that
    are scaled is the scaled mean, and Λ has one number for each channel, as γ has.

    Args:
        content: of a model with LayerScale.

    Raises:
        ValueError: if it has none, or has a layer before it that does not commute with
            γ: squeeze-and-excitation, or CB by `"max"` where a γ is negative.
    """
    spec = content.spec
    if spec is None or spec.layer_scale is None:
        raise ValueError(
            f"{content.source} has no LayerScale; leave out fold_layer_scale."
        )
    if spec.squeeze_excitation:
        raise ValueError(
            f"The LayerScale of {content.source} cannot be folded: it comes after "
            "squeeze-and-excitation."
        )
    weights = dict(content.weights)
    for i in range(spec.depth):
        for scale, projection in _SCALED.items():
            paths = f"block_{i}/{scale}", f"block_{i}/{projection}"
            (gamma, *_), *_ = arrays = [weights.get(path, [None]) for path in paths]
            if any(array is None for each in arrays for array in each):
                raise ValueError(f"{content.source} lacks weights of {paths[0]}.")
            if (gamma < 0).any() and spec.broadcast != "none" and spec.context == "max":
                raise ValueError(
                    f"The LayerScale of {content.source} cannot be folded: {paths[0]} "
                    "has negative factors, of which the maximum that CB adds differs."
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
    """Gives a model the weights of some content, and with the head the class names.

    Only what the caller asked to differ is not from the content: a head of another
    number of classes, the Λ of CB_S where there is none, the position embedding,
    which is resampled where the grids of patches differ, and the filters of the
    patches, which are adapted to images of another number of channels.

    Args:
        model: the model.
        content: the weights.
        new_head: whether the head of the model stays as it is.
        allow_other_function: whether the model may compute something else with the
            weights than the model they are of.

    Raises:
        ValueError: if a weight is missing, left over or of another shape, or the model
            computes something else, before anything is copied.
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
    kept = []
    if content.spec is not None:  # else it is of the very model
        kept = _scales(spec) - _scales(content.spec) - values.keys()
    targets = {path: pairs for path, pairs in targets.items() if path not in kept}
    _check_fit(content, values, targets)
    if content.spec is not None and not allow_other_function:
        _check_function(content, spec, new_head)
    for path, pairs in targets.items():
        for (_, weight), value in zip(pairs, values[path], strict=True):
            weight.assign(value)
    if spec.classes is not None and not new_head:
        model.class_names = content.class_names


def _scales(spec):
    """The paths of the layers that have a Λ."""
    return {
        f"block_{i}/{'' if place == 'msa_end' else 'mlp/'}{CHANNEL_SCALE}"
        for (i, place), (scale, _) in spec.contexts().items()
        if scale
    }


def _check_fit(content, values, targets):
    """Raises a ValueError that lists the weights that do not fit, if there are any."""
    missing, left_over, of_another_shape = [], [], []
    for path in targets.keys() | values.keys():
        wanted, found = targets.get(path, ()), values.get(path, ())
        for i in range(max(len(wanted), len(found))):
            names = content.names.get(path, ())
            ours = wanted[i][0] if i < len(wanted) else f"{path} ({i})"
            name = names[i] if i < len(names) else ours
            if i >= len(found) or found[i] is None:
                missing.append(name)
            elif i >= len(wanted):
                left_over.append(name if wanted or path in content.names else path)
            elif np.shape(found[i]) != tuple(wanted[i][1].shape):
                shapes = f"{np.shape(found[i])} for {tuple(wanted[i][1].shape)}"
                of_another_shape.append(f"{ours} {shapes}")
    problems = {
        "missing": missing,
        "left over": left_over,
        "of another shape": of_another_shape,
    }
    if not any(problems.values()):
        return
    listed = "; ".join(
        f"{what}: {', '.join(sorted({*names})[:8])}"
        + (f" and {len({*names}) - 8} more" if len({*names}) > 8 else "")
        for what, names in problems.items()
        if names
    )
    hint = " Give the arguments that the model of the file was built with; unlike a "
    hint += ".keras file, a .weights.h5 file does not tell them."
    raise ValueError(
        f"The weights of {content.source} do not fit this model; nothing was loaded. "
        f"{listed[0].upper()}{listed[1:]}.{'' if content.spec else hint}"
    )


def _check_function(content, spec, new_head):
    key = difference(content.spec, spec, new_head)
    if key is None:
        return
    if key == "broadcast" and not content.spec.contexts():
        raise ValueError(
            f"The weights of {content.source} are of a plain ViT; with broadcast="
            f"{spec.broadcast!r} they compute something else. Start from broadcast="
            "'cbs', which computes the same and learns to broadcast, or turn them into "
            "CB by `keras-cbvit train imagenet_anneal` (`--anneal-context` in any "
            "recipe); to load them nevertheless, give allow_other_function=True."
        )
    found, asked = getattr(content.spec, key), getattr(spec, key)
    raise ValueError(
        f"The weights of {content.source} are of a model with {key}={found!r:.80}; "
        f"with {key}={asked!r:.80} they compute something else. Ask for {key}="
        f"{found!r:.80}, or give allow_other_function=True."
    )


def name_classes(model: keras.Model, record: WeightsRecord) -> None:
    """Gives a model the class names of its record, if it has none.

    Raises:
        ValueError: if it has others.
    """
    names = record.class_names
    # A record may be of another kind of model, or have one name for two classes.
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
        raise ValueError(f"{what} are not those of its file: {other}.")
