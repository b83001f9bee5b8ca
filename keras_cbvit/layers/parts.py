"""Layers that are arguments of other layers."""

import keras


def part_from_config(config):
    """A layer of its serialised configuration, or `None` of `None`, not built yet.

    Keras would build it at once, in no name scope: the layer that it is part of does,
    so that its weights have the same paths as before it was saved.
    """
    if config is None:
        return None
    return keras.saving.deserialize_keras_object({**config, "build_config": None})
