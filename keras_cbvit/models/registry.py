"""Registry of model names: the paper's sizes, and models that users add."""

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
"""Prefix of the names of UperNets, before the name of their Vision Transformer."""
UPERNET_CHANNELS = {"ti": 192, "s": 384, "b": 512}

# The fields of `ViTSpec` that define each model.
_models: dict[str, dict] = {
    f"{family}_{size}": {**numbers, "broadcast": broadcast}
    for size, numbers in SIZES.items()
    for broadcast, family in FAMILIES.items()
}


def register_model(name: str, **fields: Any) -> None:
    """Registers a model for `create_model` and `list_models`.

    Args:
        name: lowercase letters, digits and underscores, for instance
            `"vit_s14_reg4"`.
        **fields: the fields of `ViTSpec` that define the model. All other fields
            default to the spec's and can be overridden freely.

    Raises:
        ValueError: if the name is invalid or already registered, or a field is invalid.
    """
    if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_]*", name):
        refuse(
            "name",
            name,
            "must start with a letter and contain only lowercase letters, digits and "
            "underscores.",
        )
    if name.startswith(UPERNET):
        refuse("name", name, f"must not start with {UPERNET}, reserved for UperNets.")
    if name in known_models():
        refuse("name", name, "is already registered.")
    spec = ViTSpec(**fields)
    _models[name] = {field: getattr(spec, field) for field in fields}


def model_fields(name: str) -> dict:
    """Returns the fields of `ViTSpec` that define a registered Vision Transformer."""
    return dict(_models[name])


def known_models(pattern: str = "*") -> list[str]:
    """Returns the registered names, UperNets included, that match a glob pattern."""
    if not isinstance(pattern, str):
        refuse("pattern", pattern, "must be a string with the wildcards * and ?.")
    names = [*_models, *(UPERNET + name for name in _models if _is_sized(name))]
    return sorted(fnmatch.filter(names, pattern))


def _is_sized(name):
    """Returns whether a model has the size that its name ends with."""
    size = SIZES.get(name.rpartition("_")[2])
    return size is not None and size.items() <= _models[name].items()


def architecture_of(model: ZooModel) -> str | None:
    """Returns the registered name of a model, or `None`.

    If several names match, the most specific. A UperNet is identified by its own
    name, which its builder sets.
    """
    if isinstance(model, SegmentationModel):
        return model.name if model.name in known_models() else None
    return (
        architecture_of_spec(model.spec)
        if isinstance(model, VisionTransformer)
        else None
    )


def architecture_of_spec(spec: ViTSpec) -> str | None:
    """Returns the most specific registered name of a spec, or `None`."""
    found = [
        name
        for name, fields in _models.items()
        if all(getattr(spec, field) == value for field, value in fields.items())
    ]
    return max(found, key=lambda name: len(_models[name]), default=None)


def names_for_tags(fields: dict[str, Any]) -> list[str]:
    """Returns the registered names to combine with a tag, for a model's fields.

    The last is the plain ViT, whose weights fit CB_S with a Λ of 0, unless the fields
    have `broadcast="cb"`.
    """
    ignored = ("input_shape", "include_preprocessing", "classes", "pooling")
    fields = {name: fields[name] for name in fields if name not in ignored}
    plain = [] if fields.get("broadcast") == "cb" else [{"broadcast": "none"}]
    names = []
    for changes in ({}, *plain):
        # Some fields are only valid together with those of a file.
        with contextlib.suppress(ValueError):
            spec = ViTSpec(**{**fields, **changes}, input_shape=(None, None, 3))
            names.append(architecture_of_spec(spec))
    return [name for name in dict.fromkeys(names) if name is not None]
