"""Context Broadcasting."""

from typing import Any

import keras
from keras import ops

from keras_cbvit import backend
from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import (
    LARGEST,
    check_shape,
    choice,
    fixed_channels,
    flag,
    format_value,
    keras_object,
    refuse,
    whole_number,
)
from keras_cbvit.layers.parts import Part

CONTEXTS = ("mean", "max", "token")


@keras.saving.register_keras_serializable(package="keras_cbvit")
class ContextBroadcast(Part):
    """Adds a context, such as the mean token, to every token.

    Without `scale` (CB, section 3.2 of "Scratching Visual Transformer's Back
    with Uniform Attention", ICCV 2023) each token is averaged with the context::

        y_i = 0.5 * x_i + 0.5 * context(x)

    With `scale` (CB_S, same section) the context is weighted by one learnable
    number per channel, the project's reading of the paper's formula::

        y_i = x_i + Λ ⊙ context(x)

    Args:
        scale: whether to learn Λ (CB_S) or to average (CB).
        context: `"mean"` over the tokens (the paper's choice), or, as in its
            Table 10, their `"max"` or the first `"token"`.
        axis: the token axis; not the first (batch) or last (channels) axis.
        scale_initializer: initializer of Λ. With the default, zeros, a CB_S
            model initially computes what the plain model computes.
        scale_regularizer: optional regularizer of Λ.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of rank 3 or more, channels last, for
            instance `(batch, tokens, channels)`. The number of tokens may be
            unknown until run time.
        mask: optional boolean tensor, true for valid tokens, whose axes are the
            leading axes of `inputs`, for instance `(batch, tokens)`. Masked
            tokens are excluded from the context and returned unchanged. If no
            token is valid, or `context="token"` and the first one is masked, all
            are returned unchanged.

    Returns:
        A tensor of the inputs' shape, in the layer's compute dtype. The mean is
        accumulated in at least float32.

    Raises:
        ValueError: if `context` is unknown, `scale` is not a bool, or `axis` is not a
            token axis of the inputs.

    Example:
        >>> layer = keras_cbvit.ContextBroadcast()
        >>> layer(np.array([[[0.0], [4.0]]]))  # the mean is 2
        [[[1.0], [3.0]]]
    """

    def __init__(
        self,
        scale: bool = False,
        context: str = "mean",
        axis: int = 1,
        scale_initializer: Any = "zeros",
        scale_regularizer: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.scale = flag("scale", scale)
        self.context = choice("context", context, CONTEXTS)
        try:
            self.axis = whole_number("axis", axis, least=-LARGEST)
        except ValueError:
            refuse(
                "axis",
                axis,
                "must be a whole number; to broadcast over height and width, reshape "
                "feature maps to (batch, tokens, channels).",
            )
        self.scale_initializer = keras_object(
            "scale_initializer", scale_initializer, keras.initializers
        )
        self.scale_regularizer = keras_object(
            "scale_regularizer", scale_regularizer, keras.regularizers
        )
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        self._check_axis(input_shape)
        # With inputs of another rank, `axis` could be the channels.
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape))
        if self.scale:
            self.channel_scale = self.add_weight(
                name="scale",
                shape=(fixed_channels(self, input_shape),),
                initializer=self.scale_initializer,
                regularizer=self.scale_regularizer,
            )

    def _check_axis(self, input_shape):
        rank = len(input_shape)
        axis = self.axis + rank if self.axis < 0 else self.axis
        if rank < 3 or not 0 < axis < rank - 1:
            raise ValueError(
                f"axis={self.axis} is not a token axis of inputs of shape "
                f"{format_value(tuple(input_shape))}; it must be between the first "
                "axis (batch) and the last (channels)."
            )

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        inputs = ops.cast(inputs, self.compute_dtype)  # integers have no mean
        if mask is None:
            return self._broadcast(inputs, self._context_of(inputs))
        counts = ops.cast(mask, "bool")
        while len(counts.shape) < len(inputs.shape):
            counts = ops.expand_dims(counts, -1)
        counts = ops.logical_and(counts, ops.ones_like(inputs, dtype="bool"))
        broadcast = self._broadcast(inputs, self._masked_context_of(inputs, counts))
        has_context = (
            ops.take(counts, [0], axis=self.axis)
            if self.context == "token"
            else ops.any(counts, axis=self.axis, keepdims=True)
        )
        return ops.where(ops.logical_and(counts, has_context), broadcast, inputs)

    def _broadcast(self, x, context):
        if self.scale:
            return x + self.channel_scale * context
        return 0.5 * x + 0.5 * context

    def _context_of(self, x):
        if self.context == "max":
            return ops.max(x, axis=self.axis, keepdims=True)
        if self.context == "token":
            return ops.take(x, [0], axis=self.axis)
        return backend.mean(x, axis=self.axis, keepdims=True)

    def _masked_context_of(self, x, counts):
        if self.context == "max":
            # Not -inf, which would give NaN gradients where no token is valid.
            counting = ops.where(counts, x, ops.zeros_like(x))
            lowest = ops.min(counting, axis=self.axis, keepdims=True)
            return self._context_of(ops.where(counts, x, lowest))
        if self.context == "token":
            return self._context_of(x)
        x_wide = backend.wide(ops.where(counts, x, ops.zeros_like(x)))
        total = ops.sum(x_wide, axis=self.axis, keepdims=True)
        number = ops.sum(ops.cast(counts, total.dtype), axis=self.axis, keepdims=True)
        return ops.cast(total / ops.maximum(number, 1), x.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        self._check_axis(input_shape)
        if self.input_spec is not None:
            check_shape(self, input_shape)
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "scale": self.scale,
            "context": self.context,
            "axis": self.axis,
            "scale_initializer": keras.initializers.serialize(self.scale_initializer),
            "scale_regularizer": keras.regularizers.serialize(self.scale_regularizer),
        }
