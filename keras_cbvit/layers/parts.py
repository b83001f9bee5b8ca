"""Layers that are arguments of other layers."""

import keras


def check_part(part, shape):
    """Raises a ValueError unless a layer, or `None`, keeps this shape of its inputs."""
    found = shape if part is None else part.compute_output_shape(shape)
    if tuple(found) != tuple(shape):
        raise ValueError(
            f"{part.name} makes {tuple(found)} of inputs of shape {tuple(shape)}, but "
            "has to keep their shape where it is put."
        )


def part_from_config(config):
    """A layer of its serialised configuration, or `None` of `None`, not built yet.

    Keras would build it at once, in no name scope: the layer that it is part of does,
    so that its weights have the same paths as before it was saved.
    """
    if config is None:
        return None
    return keras.saving.deserialize_keras_object({**config, "build_config": None})
