"""Whether two models compute the same with the same weights."""

import collections

from keras_cbvit.layers import ContextBroadcast

# Where a model broadcasts what.
BROADCASTING = ("broadcast", "context", "broadcast_place", "broadcast_blocks")


def refuse_other_function(path, source, model, new_head):
    """Raises a ValueError if a model computes something else with a file's weights.

    A Λ that only `model` has starts at 0 and changes nothing.

    Args:
        path: the file, for the message.
        source: the `VisionTransformer` that the file is of.
        model: the one that gets the weights.
        new_head: whether its head is not the file's.
    """
    found, asked = source.get_config(), model.get_config()
    has_head = found["include_top"] and asked["include_top"] and not new_head
    if _broadcasts_otherwise(source, model):
        key = next(key for key in BROADCASTING if found[key] != asked[key])
    elif has_head and found["pooling"] != asked["pooling"]:
        key = "pooling"
    elif asked["include_preprocessing"] and not found["include_preprocessing"]:
        key = "include_preprocessing"
    else:
        return
    raise ValueError(
        f"The weights of {path} are of a model with {key}={found[key]!r:.80}; with "
        f"{key}={asked[key]!r:.80} they compute something else. Ask for {key}="
        f"{found[key]!r:.80}, or give allow_other_function=True."
    )


def _broadcasts_otherwise(source, model):
    """Whether a model broadcasts another context than the source, or elsewhere."""
    found, asked = _broadcasts(source), _broadcasts(model)
    for place in found.keys() | asked.keys():
        (scale, context), (new_scale, new_context) = found[place], asked[place]
        is_zero = context is None and new_scale
        is_left_over = scale and not new_scale  # an error of its own
        differs = (scale, context) != (new_scale, new_context)
        if differs and not is_zero and not is_left_over:
            return True
    return False


def _broadcasts(model):
    """Whether there is a Λ, and what context, by the places of a model's CB."""
    scope = name_scope(model)
    places = {
        layer.path.removeprefix(scope): (layer.scale, layer.context)
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, ContextBroadcast)
    }
    return collections.defaultdict(lambda: (False, None), places)


def name_scope(model):
    """What the paths of a model's layers begin with, if it was built in a scope."""
    return model.get_layer("patch_embedding").path.removesuffix("patch_embedding")
