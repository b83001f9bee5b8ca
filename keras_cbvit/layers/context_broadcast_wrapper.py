"""A layer followed by Context Broadcasting, in the place of the layer alone."""

from typing import Any

import keras

from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.layers.context_broadcast import ContextBroadcast


@keras.saving.register_keras_serializable(package="keras_cbvit")
class ContextBroadcastWrapper(keras.layers.Wrapper):
    """Calls a layer, and gives its output to `ContextBroadcast`.

    It stands where the layer stood, under the layer's name, so that whatever calls the
    layer broadcasts, too (see `keras_cbvit.insert_context_broadcast`).

    Args:
        layer: a layer.
        scale: whether to learn Λ (CB_S) or to take halves (CB).
        **kwargs: those of `keras.layers.Layer`.

    Call arguments:
        *args, **kwargs: those of the layer.

    Attributes:
        refusal: what is wrong with the layer's outputs, or `None`. Keras adds to the
            messages of errors in calls.

    Returns:
        A tensor of shape `(batch, tokens, channels)`.

    Raises:
        ValueError: if the layer gives anything else than one tensor of that shape.
    """

    def __init__(self, layer: keras.layers.Layer, scale: bool = True, **kwargs: Any):
        defaults = {"name": layer.name, "dtype": layer.dtype_policy}
        # The layer casts its inputs itself, or does not.
        super().__init__(layer, **{**defaults, "autocast": False, **kwargs})
        self.context_broadcast = ContextBroadcast(
            scale, dtype=self.dtype_policy, name="context_broadcast"
        )
        self.supports_masking = True
        self.refusal: str | None = None

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the layer and CB are built as they are called."""

    def call(self, *args: Any, **kwargs: Any) -> Tensor:
        outputs = self.layer(*args, **kwargs)
        is_nested = keras.tree.is_nested(outputs)
        if is_nested or len(outputs.shape) != 3:
            found = "several" if is_nested else f"one of {len(outputs.shape)} axes"
            self.refusal = (
                f"{self.layer.name} must give one tensor of shape (batch, tokens, "
                f"channels) for context to be broadcast after it; it gives {found}."
            )
            raise ValueError(self.refusal)
        return self.context_broadcast(outputs)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Shape:
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> keras.KerasTensor:
        # By a call, not by a shape, so that CB is built.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.context_broadcast.scale}
