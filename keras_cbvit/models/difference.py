"""Whether two models compute the same with the same weights."""

import dataclasses

from keras_cbvit.models.spec import TRAINING_FIELDS, ViTSpec

# Fields that change no prediction of a model with a head.
_FREE = (
    "input_shape",
    "position_grid",
    "classes",
    "classifier_activation",
    *TRAINING_FIELDS,
)
_BROADCAST = ("broadcast", "context", "broadcast_place", "broadcast_blocks")


def difference(found: ViTSpec, wanted: ViTSpec, new_head: bool = False) -> str | None:
    """The first field by which two models compute different things with weights.

    A Λ that only `wanted` has starts at 0 and changes nothing.

    Args:
        found: the spec that the weights are of.
        wanted: the spec that is to get them.
        new_head: whether the head of `wanted` gets other weights.

    Returns:
        The name of a field, or `None` if the two compute the same.
    """
    has_head = None not in (found.classes, wanted.classes) and not new_head
    normalizes = found.include_preprocessing and wanted.include_preprocessing
    # Of images of other channels there is no mean to be the same.
    normalizes = normalizes and found.input_shape[2] == wanted.input_shape[2]
    for field in dataclasses.fields(ViTSpec):
        name = field.name
        if getattr(found, name) == getattr(wanted, name) or name in _FREE:
            continue
        if name in _BROADCAST:
            if _broadcasts_differently(found, wanted):
                return name
        elif name == "layer_scale":  # what its factors start from
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
            continue  # a Λ that is left over, which is an error of its own
        if old.get(place) != new.get(place):
            return True
    return False
