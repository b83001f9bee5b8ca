"""The options of the network: the fields of `ViTSpec` and a few more for training."""

import dataclasses
import typing
from typing import Annotated, Literal

import tyro

import keras_cbvit
from keras_cbvit.analysis import scale_layers
from keras_cbvit.documentation import field_docs
from keras_cbvit.models.registry import UPERNET, UPERNET_CHANNELS, known_models
from keras_cbvit.models.segmentation import BLOCKS
from keras_cbvit.models.spec import TRAINING_FIELDS

# Fields of `ViTSpec` that the data and the task determine.
_DECIDED = (
    "input_shape",
    "position_grid",
    "include_preprocessing",
    "classes",
    "classifier_activation",
)
_OWN = (
    ("model", str | None, "name of the model, one of `keras_cbvit.list_models()`."),
    (
        "weights",
        str | None,
        "initial weights: a full name, a handle hf://owner/name, or a path. Network "
        "options that are not given are taken from the weights.",
    ),
    ("initial_scale", float | None, "initial value of all channels of CB_S's Λ."),
    (
        "channels",
        int | None,
        "channels of UperNet's head; required for a UperNet without --model.",
    ),
    (
        "blocks",
        tuple[int, ...] | None,
        "indices, counted from 0, of the four blocks whose outputs UperNet takes.",
    ),
)


# Types of fields whose numbers the command line would otherwise parse as text.
_TYPES = {"broadcast_blocks": Literal["all", "upper"] | tuple[int, ...] | None}


def _fields():
    """Yields name, type and default of each option; all defaults are `None`."""
    hints = typing.get_type_hints(keras_cbvit.ViTSpec)
    docs = field_docs()
    options = [*_OWN, *((n, _TYPES.get(n, hints[n] | None), docs[n]) for n in hints)]
    for name, kind, doc in options:
        if name not in _DECIDED:
            help_text = " ".join(doc.replace("`", "").split())
            help_text = help_text[0].upper() + help_text[1:]
            yield name, Annotated[kind, tyro.conf.arg(help=help_text)], None


class Network(dataclasses.make_dataclass("_Options", _fields(), frozen=True)):
    """The architecture and the initial weights; None keeps the model's default."""


SPEC_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(Network)
    if field.name not in {name for name, *_ in _OWN}
)
SIZES = ("hidden_dim", "depth", "num_heads", "mlp_ratio")


def given_fields(network):
    """Returns the fields of `ViTSpec` that are set in a network, by name."""
    found = {name: getattr(network, name) for name in SPEC_FIELDS}
    return {name: value for name, value in found.items() if value is not None}


def without_defaults(network, default, asked):
    """Clears config values that do not apply to the model or weights the user chose.

    The sizes and weights in a config belong to the config's own model, and other
    weights bring their own architecture.

    Args:
        network: the config's network with the user's options applied.
        default: the config's network.
        asked: the user's options alone; these stay even if equal to the config's.
    """
    dropped = set()
    if network.weights != default.weights:
        dropped |= {*SPEC_FIELDS, "model"} - {*TRAINING_FIELDS}
        if str(network.model).startswith(UPERNET):
            dropped.remove("model")  # weights of a ViT do not define UperNet's head
    if network.model != default.model:
        dropped |= {*SIZES, "channels", "blocks", "weights"}
    of_config = [
        name
        for name in dropped
        if getattr(network, name) == getattr(default, name)
        and getattr(asked, name) is None
    ]
    return dataclasses.replace(network, **dict.fromkeys(of_config))


def build_classifier(network, data, classes, dtype, classifier_activation=None):
    """Builds the classifier of a network; it returns logits by default."""
    if extra := [n for n in ("channels", "blocks") if getattr(network, n) is not None]:
        raise ValueError(
            f"{extra[0]}={getattr(network, extra[0])} applies only to UperNet."
        )
    options = {
        **given_fields(network),
        "weights": network.weights,
        "input_shape": (*data.image_size, 3),
        "classes": classes,
        "classifier_activation": classifier_activation,
        "dtype": dtype,
    }
    if network.model is None:
        model = keras_cbvit.ViTCB(**options)
    else:
        _check_name(network.model, "classifier")
        model = keras_cbvit.create_model(network.model, **options)
    return _with_scales(model, network.initial_scale)


def build_segmenter(network, data, classes, dtype):
    """Builds the segmentation model of a network; it returns logits.

    Returns:
        A `SegmentationModel` from images of shape `(batch, height, width, 3)` with
        values 0–255 and sides that are multiples of the patch size, to float32 logits
        of shape `(batch, height, width, classes)`.
    """
    options = {
        **given_fields(network),
        "weights": network.weights,
        "input_shape": (*data.image_size, 3),
        "blocks": network.blocks or BLOCKS,
        "dtype": dtype,
    }
    if network.channels is not None:
        options["channels"] = network.channels
    if network.model is not None:
        _check_name(network.model, "segmentation model")
        model = keras_cbvit.create_model(network.model, classes=classes, **options)
    elif network.channels is None:
        raise ValueError(
            "A UperNet without --model requires --channels; the paper uses "
            f"{', '.join(map(str, UPERNET_CHANNELS.values()))} for Ti, S and B."
        )
    else:
        model = keras_cbvit.UperNet_ViTCB(classes, **options)
    return _with_scales(model, network.initial_scale)


def _check_name(name, kind):
    """Raises a ValueError unless the name is that of a model of this kind."""
    segment = kind == "segmentation model"
    names = [n for n in known_models() if n.startswith(UPERNET) == segment]
    if name not in names:
        raise ValueError(
            f"model={name!r} is not a {kind}; use one of {', '.join(names)}."
        )


def _with_scales(model, value):
    """Sets every Λ of a model to an initial value, unless that is `None`."""
    if value is None:
        return model
    try:
        layers = scale_layers(model)
    except ValueError as error:
        raise ValueError(f"initial_scale={value} has no effect: {error}") from error
    for layer in layers.values():
        layer.channel_scale.assign([value] * layer.channel_scale.shape[0])
    return model
