"""Wraps a layer to apply Context Broadcasting to its output."""

from typing import Any

import keras

from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.layers.context_broadcast import ContextBroadcast


@keras.saving.register_keras_serializable(package="keras_cbvit")
class ContextBroadcastWrapper(keras.layers.Wrapper):
    """Applies `ContextBroadcast` to the output of a layer.

    The wrapper replaces the layer under the same name (see
    `keras_cbvit.insert_context_broadcast`).

    Args:
        layer: the layer to wrap.
        scale: whether to learn Λ (CB_S) or to average (CB).
        **kwargs: those of `keras.layers.Layer`.

    Call arguments:
        *args, **kwargs: those of the layer.

    Attributes:
        refusal: the error message about the layer's outputs, or `None`, without what
            Keras adds to messages of errors in calls.

    Returns:
        A tensor of shape `(batch, tokens, channels)`.

    Raises:
        ValueError: if the layer does not return one tensor of that shape.
    """

    def __init__(self, layer: keras.layers.Layer, scale: bool = True, **kwargs: Any):
        defaults = {"name": layer.name, "dtype": layer.dtype_policy}
        # The layer decides whether to cast its inputs.
        super().__init__(layer, **{**defaults, "autocast": False, **kwargs})
        self.context_broadcast = ContextBroadcast(
            scale, dtype=self.dtype_policy, name="context_broadcast"
        )
        self.supports_masking = True
        self.refusal: str | None = None

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing; calls build the layer and CB."""

    def call(self, *args: Any, **kwargs: Any) -> Tensor:
        outputs = self.layer(*args, **kwargs)
        is_nested = keras.tree.is_nested(outputs)
        if is_nested or len(outputs.shape) != 3:
            found = "several" if is_nested else f"one of {len(outputs.shape)} axes"
            self.refusal = (
                f"{self.layer.name} must return one tensor of shape (batch, tokens, "
                f"channels) for Context Broadcasting; it returns {found}."
            )
            raise ValueError(self.refusal)
        return self.context_broadcast(outputs)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Shape:
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> keras.KerasTensor:
        # Calls the layer symbolically, which builds CB.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.context_broadcast.scale}
