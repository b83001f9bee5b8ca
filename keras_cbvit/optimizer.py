"""AdamW with a learning-rate factor for each weight."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras

from keras_cbvit.annotations import Tensor
from keras_cbvit.arguments import number_between, refuse


@keras.saving.register_keras_serializable(package="keras_cbvit")
class AdamW(keras.optimizers.AdamW):
    """Keras's AdamW with a learning-rate factor for each weight.

    The factor also scales the decoupled weight decay, which is proportional to the
    learning rate. Scaling gradients instead would have no effect, since Adam normalizes
    them. Only kernels decay, as in DeiT and timm: not biases, norms, Λ, tokens or
    position embeddings.

    Args:
        learning_rate: a float or a schedule, as in Keras.
        weight_decay: weight decay of the kernels, as in Keras.
        learning_rate_factors: factors of 0 or more by weight path, such as from
            `keras_cbvit.layer_decay`. Other weights have the factor 1.
        **kwargs: those of `keras.optimizers.AdamW`.

    Raises:
        ValueError: if a factor is negative, or, when the optimizer is built, if its
            weight is not trainable.

    Example:
        >>> factors = keras_cbvit.layer_decay(model, 0.75)
        >>> optimizer = keras_cbvit.AdamW(1e-4, 0.05, learning_rate_factors=factors)
        >>> model.compile(optimizer, "sparse_categorical_crossentropy")
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.004,
        *,
        learning_rate_factors: Mapping[str, float] | None = None,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, weight_decay, **kwargs)
        factor = number_between(0)
        self.learning_rate_factors = {
            path: float(factor(f"learning_rate_factors[{path!r}]", value))
            for path, value in (learning_rate_factors or {}).items()
        }
        self._is_restored = False

    def build(self, var_list: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        paths = [variable.path for variable in var_list]
        for path in self.learning_rate_factors:
            # A file has merged LoRA, but its optimizer still has factors for it.
            if path not in paths and not self._is_restored:
                refuse(
                    "learning_rate_factors",
                    path,
                    "is not a trainable weight; compute the factors for the model to "
                    "compile, after you freeze layers.",
                )
        self._factors = [self.learning_rate_factors.get(path, 1.0) for path in paths]
        # TensorFlow passes its own variables to the update, with other names.
        self._decays = [variable.name == "kernel" for variable in var_list]
        super().build(var_list)

    def update_step(
        self, gradient: Tensor, variable: keras.Variable, learning_rate: Any
    ) -> None:
        index = self._get_variable_index(variable)
        rate = keras.ops.cast(learning_rate * self._factors[index], variable.dtype)
        if self._decays[index] and self._use_weight_decay(variable):
            self.assign_sub(variable, variable * (rate * self.weight_decay))
        super().update_step(gradient, variable, rate)

    def _apply_weight_decay(self, variables):
        """Does nothing; `update_step` applies it with each weight's learning rate."""

    def get_config(self) -> dict[str, Any]:
        factors = dict(self.learning_rate_factors)
        return {**super().get_config(), "learning_rate_factors": factors}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        optimizer = super().from_config(config, custom_objects)
        optimizer._is_restored = True
        return optimizer
