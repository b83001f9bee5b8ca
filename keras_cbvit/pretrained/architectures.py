"""The sizes of the paper, and what models and weights are called."""

import re

import keras

NAME = r"[a-z0-9_]+\.[a-z0-9_]+"  # of published weights: architecture.tag
SIZES = {
    "ti": {"hidden_dim": 192, "depth": 12, "num_heads": 3, "mlp_ratio": 4},
    "s": {"hidden_dim": 384, "depth": 12, "num_heads": 6, "mlp_ratio": 4},
    "b": {"hidden_dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4},
}
FAMILIES = {None: "vit", "cb": "vitcb", "cbs": "vitcbs"}  # by `broadcast`
UPERNET = "upernet_"  # what names of UperNets begin with, before that of their ViT
# Models know this package, so this package knows them by name only.
SEGMENTATION_MODEL = "keras_cbvit>SegmentationModel"


def architecture_name(config):
    """A model's name in names of weights, `"vitcb_s"`; `None` if of no known size.

    Raises:
        ValueError: if `config["broadcast"]` is unknown.
    """
    broadcast = config["broadcast"]
    if broadcast not in tuple(FAMILIES):
        raise ValueError(
            f"broadcast={broadcast!r} is unknown; use one of "
            f"{', '.join(map(repr, FAMILIES))}."
        )
    for size, numbers in SIZES.items():
        if numbers.items() <= config.items():
            return f"{FAMILIES[broadcast]}_{size}"
    return None


def known_architectures():
    """The names of all sizes, of classifiers and of UperNets."""
    names = {f"{family}_{size}" for family in FAMILIES.values() for size in SIZES}
    return names | {UPERNET + name for name in names}


def is_upernet(model):
    """Whether a model is one that `UperNet` builds, or `load_model` reads."""
    return keras.saving.get_registered_name(type(model)) == SEGMENTATION_MODEL


def as_segmentation_model(model):
    """A UperNet of a file without its class, as files once were; others as they are."""
    if keras.saving.get_registered_name(type(model)) != "Functional":
        return model
    names = [layer.name for layer in model.layers]
    if "uper_head" not in names or model.output_names != ["predictions"]:
        return model
    build = keras.saving.get_registered_object(SEGMENTATION_MODEL)
    return build(model.input, model.output, name=model.name)


def architecture_of(model):
    """The architecture of a `VisionTransformer` or a UperNet; `None` if not known.

    A UperNet of one of the sizes is recognized by its name, which its builder gives it.
    """
    if is_upernet(model):
        return model.name if model.name in known_architectures() else None
    return architecture_name(model.get_config())


def check_weights_name(name, actual, upernet=False):
    """Raises a ValueError unless weights of an architecture may be called `name`.

    `vitcb_s.imagenet` is for a ViTCB_S alone; a model of no known size may have any
    architecture name that is not one of the known. UperNets' names begin with
    `upernet_`, and no others.

    Args:
        name: what the weights are to be called.
        actual: the model's `architecture_of`.
        upernet: whether it is a UperNet.
    """
    if not re.fullmatch(NAME, name):
        raise ValueError(
            f"name={name!r} must be architecture.tag in lower-case letters, digits and "
            "underscores, for instance 'vitcb_s.imagenet'."
        )
    architecture = name.partition(".")[0]
    is_other = actual is not None or architecture in known_architectures()
    if architecture != actual and is_other and upernet and actual is None:
        raise ValueError(
            f"name={name!r} is for a model whose own name is {architecture}; if this "
            f"one is of that size, build it with name={architecture!r}."
        )
    if architecture != actual and is_other:
        raise ValueError(
            f"name={name!r} is not for this model, which is "
            + (f"a {actual}." if actual else "of none of the paper's sizes.")
        )
    if architecture.startswith(UPERNET) != upernet:
        raise ValueError(
            f"name={name!r} is not for this model: names of UperNets, and no others, "
            f"begin with {UPERNET}."
        )
