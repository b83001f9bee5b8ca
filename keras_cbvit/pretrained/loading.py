"""From a file of weights to a model that has them, all of them."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_cbvit import classes
from keras_cbvit.arguments import field_value
from keras_cbvit.internals import layers_within
from keras_cbvit.layers.token_embedding import resample_position_embedding
from keras_cbvit.models.difference import difference
from keras_cbvit.models.segmentation import check_vision_transformer
from keras_cbvit.models.spec import ViTSpec
from keras_cbvit.models.vision_transformer import (
    HEADS,
    TOKENS,
    VisionTransformer,
)
from keras_cbvit.pretrained.formats import Content, keras_files, timm
from keras_cbvit.pretrained.records import WeightsRecord
from keras_cbvit.pretrained.sources import locate

CHANNEL_SCALE = "context_broadcast"
"""What the layer of a Λ is called, at any place."""
# Two models that differ in one of these cannot share weights, or not their meaning.
ARCHITECTURE = ("hidden_dim", "depth", "num_heads", "mlp_ratio", "patch_size")


def load_model(weights: Any) -> keras.Model:
    """Loads a whole model: of published weights, or of a `.keras` file.

    For models that are used as they are, such as published UperNets. For a Vision
    Transformer with another head, size or dtype, see `ViTCB`.

    Args:
        weights: a full name such as `"vitcb_s.imagenet"`, see `list_weights()`, or the
            path of a `.keras` file. The file of a name is verified, and downloaded if
            need be.

    Returns:
        The `keras.Model` in the file, not compiled. A model of this package has
        `class_names`, those of its record if its file has none.

    Raises:
        ValueError: on an unknown name, a file that is damaged or has no model, or a
            model with parts that Keras does not know or would not load, or whose class
            names are not those of its record.
        FileNotFoundError: on the path of a file that does not exist.
        OSError: if the file cannot be downloaded, or is not the one of its record.
    """
    path, record = locate(weights)
    if path.suffix != ".keras":
        raise ValueError(
            f"{path} holds weights alone, without their model; build the model with "
            "ViTCB(weights=...) and the arguments it was built with."
        )
    model = keras_files.load(path)
    if record is not None:
        name_classes(model, record)
    return model


def load_timm_weights(
    model: VisionTransformer,
    state_dict: Mapping[str, Any],
    allow_other_function: bool = False,
) -> None:
    """Copies the weights of a timm or DeiT Vision Transformer into a model.

    They are those of a plain ViT, whose class token is classified. A CB_S model keeps
    its Λ; with the Λ of 0 that it starts with it gives the plain ViT's predictions
    (the project's reading of section 3.2).

    Args:
        model: a `VisionTransformer`. With `include_preprocessing=True` it normalizes by
            its spec's `mean` and `std`; timm's models of the "augreg" family are
            trained with 0.5 for both.
        state_dict: timm's names, such as `"blocks.0.attn.qkv.weight"`, with NumPy
            arrays or torch tensors.
        allow_other_function: whether the model may compute something else with the
            weights: CB, or a head on the mean of the tokens.

    Raises:
        ValueError: if the model is of another kind, quantized or computes something
            else; if a weight is not finite; if a weight is missing, left over
            or of another shape, by name and before anything is copied. To load into
            a model with `include_top=False`, leave out `head.weight` and
            `head.bias`.
    """
    check_vision_transformer("model", model)
    if any(layer.quantization_mode for layer in layers_within(model)):
        raise ValueError("The model is quantized; load the weights before it is.")
    content = timm.read(state_dict, model.spec)
    if model.spec.classes is None and content.weights.keys() & HEADS:
        raise ValueError(
            "The state dict has a head, but the model does not; leave out head.weight "
            "and head.bias."
        )
    assign(model, content, allow_other_function=allow_other_function)


def merge(content: Content, given: dict) -> ViTSpec:
    """The spec of a model that is to get some weights.

    Args:
        content: the weights.
        given: fields of `ViTSpec` that the user asks for, which go before what the
            content says.

    Raises:
        ValueError: if the two cannot share weights, or the fields do not go together.
    """
    found = content.spec
    if found is None:
        return ViTSpec(**given)
    for key in ARCHITECTURE:
        own = getattr(found, key)
        if key in given and field_value(ViTSpec, key, given[key]) != own:
            raise ValueError(
                f"The weights of {content.source} are of another architecture: their "
                f"{key} is {own}, not {given[key]}. Use a file of this model, or "
                "ViTCB(weights=...), which takes the architecture of the file."
            )
    given = dict(given)
    if "input_shape" in given:
        shape = field_value(ViTSpec, "input_shape", given["input_shape"])
        given.setdefault("position_grid", found.grid if None in shape else None)
    return found.replace(**given)


def assign(
    model: VisionTransformer,
    content: Content,
    new_head: bool = False,
    allow_other_function: bool = False,
) -> None:
    """Gives a model the weights of some content, and with the head the class names.

    Only what the caller asked to differ is not from the content: a head of another
    number of classes, the Λ of CB_S where there is none, and the position embedding,
    which is resampled where the grids of patches differ.

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
        values[TOKENS] = _resampled(values[TOKENS], content.spec, spec.grid)
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


def _resampled(tokens, spec, grid):
    """The weights of the token embedding of a spec for another grid of patches."""
    *others, position = tokens
    prefix = spec.num_prefix_tokens if spec.prefix_position_embedding else 0
    shape = (1, prefix + spec.grid[0] * spec.grid[1], spec.hidden_dim)
    if spec.grid == grid or np.shape(position) != shape:  # which is an error of its own
        return tokens
    resampled = resample_position_embedding(position, spec.grid, grid, prefix)
    return [*others, resampled]


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
