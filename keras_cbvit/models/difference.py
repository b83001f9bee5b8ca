"""Compares the functions that two specs compute with the same weights."""

import dataclasses

from keras_cbvit.models.spec import TRAINING_FIELDS, ViTSpec

# Fields that do not affect predictions with the same weights.
_IGNORED = (
    "input_shape",
    "position_grid",
    "classes",
    "classifier_activation",
    *TRAINING_FIELDS,
)
_BROADCAST = ("broadcast", "context", "broadcast_place", "broadcast_blocks")


def difference(found: ViTSpec, wanted: ViTSpec, new_head: bool = False) -> str | None:
    """Returns the first field that makes two specs compute different functions.

    A Λ that only `wanted` has starts at 0 and makes no difference.

    Args:
        found: the spec of the weights.
        wanted: the spec of the model to load them into.
        new_head: whether the head of `wanted` is new.

    Returns:
        The name of a field, or `None` if the functions are the same.
    """
    has_head = None not in (found.classes, wanted.classes) and not new_head
    normalizes = found.include_preprocessing and wanted.include_preprocessing
    # Means of different numbers of channels cannot be compared.
    normalizes = normalizes and found.input_shape[2] == wanted.input_shape[2]
    for field in dataclasses.fields(ViTSpec):
        name = field.name
        if getattr(found, name) == getattr(wanted, name) or name in _IGNORED:
            continue
        if name in _BROADCAST:
            if _broadcasts_differently(found, wanted):
                return name
        elif name == "layer_scale":  # initial values do not matter
            if None in (found.layer_scale, wanted.layer_scale):
                return name
        elif name == "mlp_ratio":
            if found.mlp_dim != wanted.mlp_dim:
                return name
        elif name == "include_preprocessing":
            if wanted.include_preprocessing:
                return name
        elif name in ("mean", "std"):
            if normalizes:
                return name
        elif name != "pooling" or has_head:
            return name
    return None


def _broadcasts_differently(found, wanted):
    old, new = found.contexts(), wanted.contexts()
    for place in old.keys() | new.keys():
        if place not in old and new[place][0]:
            continue  # a Λ of 0
        if place in old and old[place][0] and not new.get(place, (False,))[0]:
            continue  # an unused Λ, which is reported separately
        if old.get(place) != new.get(place):
            return True
    return False
