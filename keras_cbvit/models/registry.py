"""Names of models: those of the paper's sizes, and those that users add."""

import contextlib
import fnmatch
import re
from typing import Any

from keras_cbvit.arguments import refuse
from keras_cbvit.models.base import ZooModel
from keras_cbvit.models.segmentation import SegmentationModel
from keras_cbvit.models.spec import ViTSpec
from keras_cbvit.models.vision_transformer import VisionTransformer

SIZES = {
    "ti": {"hidden_dim": 192, "depth": 12, "num_heads": 3, "mlp_ratio": 4},
    "s": {"hidden_dim": 384, "depth": 12, "num_heads": 6, "mlp_ratio": 4},
    "b": {"hidden_dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4},
}
FAMILIES = {"none": "vit", "cb": "vitcb", "cbs": "vitcbs"}  # by `broadcast`
UPERNET = "upernet_"
"""What names of UperNets begin with, before the name of their Vision Transformer."""
UPERNET_CHANNELS = {"ti": 192, "s": 384, "b": 512}

# The fields that make a model one of a name.
_models: dict[str, dict] = {
    f"{family}_{size}": {**numbers, "broadcast": broadcast}
    for size, numbers in SIZES.items()
    for broadcast, family in FAMILIES.items()
}


def register_model(name: str, **fields: Any) -> None:
    """Adds a model to the zoo, so that `create_model` and `list_models` know it.

    Args:
        name: in lower-case letters, digits and underscores, for instance
            `"vit_s14_reg4"`.
        **fields: the fields of `ViTSpec` that make a model one of this name; the others
            have the spec's defaults and can be chosen freely.

    Raises:
        ValueError: on a name that is taken or no such name, or fields that cannot be.
    """
    if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_]*", name):
        refuse(
            "name",
            name,
            "must be of lower-case letters, digits and underscores, a letter first.",
        )
    if name.startswith(UPERNET):
        refuse("name", name, f"must not begin with {UPERNET}, as UperNets' names do.")
    if name in known_models():
        refuse("name", name, "is taken.")
    spec = ViTSpec(**fields)
    _models[name] = {field: getattr(spec, field) for field in fields}


def model_fields(name: str) -> dict:
    """The fields of `ViTSpec` that a registered Vision Transformer has."""
    return dict(_models[name])


def known_models(pattern: str = "*") -> list[str]:
    """The names of registered models, UperNets as well, that match a pattern."""
    if not isinstance(pattern, str):
        refuse("pattern", pattern, "must be a string, with * and ? for any letters.")
    names = [*_models, *(UPERNET + name for name in _models if _is_sized(name))]
    return sorted(fnmatch.filter(names, pattern))


def _is_sized(name):
    """Whether a model has the size that its name ends in."""
    size = SIZES.get(name.rpartition("_")[2])
    return size is not None and size.items() <= _models[name].items()


def architecture_of(model: ZooModel) -> str | None:
    """The name of a model: of a registered one, else `None`.

    The most special of several that fit. A UperNet of a registered Vision Transformer
    is known by its own name, which its builder gives it.
    """
    if isinstance(model, SegmentationModel):
        return model.name if model.name in known_models() else None
    return (
        architecture_of_spec(model.spec)
        if isinstance(model, VisionTransformer)
        else None
    )


def architecture_of_spec(spec: ViTSpec) -> str | None:
    """The registered name of a spec, the most special of several; `None` if none."""
    found = [
        name
        for name, fields in _models.items()
        if all(getattr(spec, field) == value for field, value in fields.items())
    ]
    return max(found, key=lambda name: len(_models[name]), default=None)


def names_for_tags(fields: dict[str, Any]) -> list[str]:
    """The registered names that complete a tag for a model of some fields, in order.

    The last is that of the plain ViT, whose weights are those of CB_S with a Λ of 0,
    unless the fields say `broadcast="cb"`.
    """
    of_images = ("input_shape", "include_preprocessing", "classes", "pooling")
    fields = {name: fields[name] for name in fields if name not in of_images}
    plain = [] if fields.get("broadcast") == "cb" else [{"broadcast": "none"}]
    names = []
    for changes in ({}, *plain):
        # Some fields only go together with those of a file.
        with contextlib.suppress(ValueError):
            spec = ViTSpec(**{**fields, **changes}, input_shape=(None, None, 3))
            names.append(architecture_of_spec(spec))
    return [name for name in dict.fromkeys(names) if name is not None]
