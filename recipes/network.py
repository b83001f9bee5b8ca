"""The options of the network: the fields of `ViTSpec`, and what a training adds."""

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

# Those that the data and the task decide.
_DECIDED = (
    "input_shape",
    "position_grid",
    "include_preprocessing",
    "classes",
    "classifier_activation",
)
_OWN = (
    ("model", str | None, "one of `keras_cbvit.list_models()`."),
    (
        "weights",
        str | None,
        "weights to start from, a full name, a handle hf://owner/name or a path, which "
        "say what is not given here.",
    ),
    ("initial_scale", float | None, "what every channel of CB_S's Λ starts from."),
    ("channels", int | None, "of UperNet's head; the sizes have their own."),
    (
        "blocks",
        tuple[int, ...] | None,
        "the four blocks, counted from 0, after which UperNet takes features.",
    ),
)


# Where the command line would take numbers for text.
_TYPES = {"broadcast_blocks": Literal["all", "upper"] | tuple[int, ...] | None}


def _fields():
    """Names, types and defaults: each is `None` if it is not given."""
    hints = typing.get_type_hints(keras_cbvit.ViTSpec)
    docs = field_docs()
    options = [*_OWN, *((n, _TYPES.get(n, hints[n] | None), docs[n]) for n in hints)]
    for name, kind, doc in options:
        if name not in _DECIDED:
            help_text = " ".join(doc.replace("`", "").split())
            yield name, Annotated[kind, tyro.conf.arg(help=help_text)], None


class Network(dataclasses.make_dataclass("_Options", _fields(), frozen=True)):
    """The model: its name, or what makes it; what is not given is a default."""


SPEC_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(Network)
    if field.name not in {name for name, *_ in _OWN}
)
SIZES = ("hidden_dim", "depth", "num_heads", "mlp_ratio")


def given(network):
    """The fields of `ViTSpec` that a network says, by name."""
    found = {name: getattr(network, name) for name in SPEC_FIELDS}
    return {name: value for name, value in found.items() if value is not None}


def without_defaults(network, default, asked):
    """A network without what only the config says, where the user chose another.

    The sizes and the weights in a config belong to its own model, and with other
    weights the network is theirs.

    Args:
        network: the config's with what was asked for.
        default: the config's.
        asked: what was asked for alone; it stays, also where the config says the same.
    """
    dropped = set()
    if network.weights != default.weights:
        dropped |= {*SPEC_FIELDS, "model"} - {*TRAINING_FIELDS}
        if str(network.model).startswith(UPERNET):
            dropped.remove("model")  # whose head no weights say
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
    """The classifier of a network; it gives logits unless told otherwise."""
    if extra := [n for n in ("channels", "blocks") if getattr(network, n) is not None]:
        raise ValueError(f"{extra[0]}={getattr(network, extra[0])} is for UperNets.")
    options = {
        **given(network),
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
    """The segmentation model of a network; it gives logits.

    Returns:
        A `SegmentationModel` from images of values 0-255 and of shape `(batch, height,
        width, 3)`, the sides multiples of the patch size, to float32 logits of shape
        `(batch, height, width, classes)`.
    """
    options = {
        **given(network),
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
            "A UperNet without --model needs --channels; the paper takes "
            f"{', '.join(map(str, UPERNET_CHANNELS.values()))} for Ti, S and B."
        )
    else:
        model = keras_cbvit.UperNet_ViTCB(classes, **options)
    return _with_scales(model, network.initial_scale)


def _check_name(name, kind):
    """Raises a ValueError unless a model of this kind has this name."""
    segment = kind == "segmentation model"
    names = [n for n in known_models() if n.startswith(UPERNET) == segment]
    if name not in names:
        raise ValueError(f"model={name!r} is no {kind}; use one of {', '.join(names)}.")


def _with_scales(model, value):
    """A model whose every Λ starts from a value, if there is one."""
    if value is None:
        return model
    try:
        layers = scale_layers(model)
    except ValueError as error:
        raise ValueError(f"initial_scale={value} has no effect: {error}") from error
    for layer in layers.values():
        layer.channel_scale.assign([value] * layer.channel_scale.shape[0])
    return model
