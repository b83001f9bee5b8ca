"""Layers that consist of other layers."""

import keras


def check_part(part, shape):
    """Raises a ValueError unless a layer, or `None`, keeps this shape of its inputs."""
    found = shape if part is None else part.compute_output_shape(shape)
    if tuple(found) != tuple(shape):
        raise ValueError(
            f"{part.name} makes {tuple(found)} of inputs of shape {tuple(shape)}, but "
            "has to keep their shape where it is put."
        )


class CompositeLayer(keras.layers.Layer):
    """A layer of layers, whose configuration says how its parts are quantized.

    Keras quantizes a model's innermost layers one by one, and keeps it in their
    configurations. Those of a composite layer's parts are in no file, so that the
    composite layer has to keep it for them.

    Args:
        quantized: how parts are quantized, by their path within this layer, as
            `get_config` gives it; none if not given.
        **kwargs: those of `keras.layers.Layer`.
    """

    def __init__(self, quantized=None, **kwargs):
        super().__init__(**kwargs)
        self._quantized = quantized or {}

    def part_arguments(self, name):
        """The arguments of the part of this name that say its dtype."""
        if name in self._quantized:
            return {
                key: keras.saving.deserialize_keras_object(value)
                for key, value in self._quantized[name].items()
            }
        inner = {
            path.removeprefix(f"{name}/"): value
            for path, value in self._quantized.items()
            if path.startswith(f"{name}/")
        }
        arguments = {"dtype": self.dtype_policy}
        return {**arguments, "quantized": inner} if inner else arguments

    def get_config(self):
        config = super().get_config()
        found = quantized_layers(self) if self.built else self._quantized
        return {**config, "quantized": dict(found)} if found else config


def quantized_layers(layer):
    """How the layers within a layer are quantized, by their path within it.

    Each is given as arguments of `keras.layers.Dense`, serialized; layers that are not
    quantized are left out.
    """
    prefix = f"{layer.path}/" if isinstance(layer, CompositeLayer) else ""
    return {
        part.path.removeprefix(prefix): {
            "dtype": keras.dtype_policies.serialize(part.dtype_policy),
            "quantization_config": keras.saving.serialize_keras_object(
                getattr(part, "quantization_config", None)
            ),
        }
        for part in layer._flatten_layers(include_self=False)
        if part.quantization_mode is not None
    }


def part_from_config(config):
    """A layer of its serialised configuration, or `None` of `None`, not built yet.

    Keras would build it at once, in no name scope: the layer that it is part of does,
    so that its weights have the same paths as before it was saved.
    """
    if config is None:
        return None
    return keras.saving.deserialize_keras_object({**config, "build_config": None})
