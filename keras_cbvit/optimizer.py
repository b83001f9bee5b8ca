"""AdamW with a learning rate of its own for each weight, as fine-tuning needs it."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_cbvit.annotations import Tensor
from keras_cbvit.arguments import number_between, refuse


@keras.saving.register_keras_serializable(package="keras_cbvit")
class AdamW(keras.optimizers.AdamW):
    """Keras's AdamW with a factor on the learning rate of each weight.

    The factor scales the weight decay, too, as the decoupled weight decay is a share of
    the learning rate. Keras has no such factors, and a gradient that is scaled instead
    changes nothing: Adam divides by its size.

    Args:
        learning_rate: a float or a schedule, as Keras's.
        weight_decay: as Keras's.
        learning_rate_factors: factors of 0 or more by the paths of weights, as
            `keras_cbvit.layer_decay` gives them; 1 for a weight that is not among them.
        **kwargs: those of `keras.optimizers.AdamW`.

    Raises:
        ValueError: on a factor that is negative or of a weight that is not trained,
            when the optimizer is built.

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

    def build(self, var_list: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        paths = [variable.path for variable in var_list]
        for path in self.learning_rate_factors:
            if path not in paths:
                refuse(
                    "learning_rate_factors",
                    path,
                    "is the path of no weight that is trained; make the factors of the "
                    "model that is compiled, after its layers are frozen.",
                )
        self._factors = [self.learning_rate_factors.get(path, 1.0) for path in paths]
        super().build(var_list)

    def update_step(
        self, gradient: Tensor, variable: keras.Variable, learning_rate: Any
    ) -> None:
        factor = self._factors[self._get_variable_index(variable)]
        rate = keras.ops.cast(learning_rate * factor, variable.dtype)
        if self._use_weight_decay(variable):
            self.assign_sub(variable, variable * (rate * self.weight_decay))
        super().update_step(gradient, variable, rate)

    def _apply_weight_decay(self, variables):
        """Keras's, at one learning rate for all; `update_step` does it instead."""

    def get_config(self) -> dict[str, Any]:
        factors = dict(self.learning_rate_factors)
        return {**super().get_config(), "learning_rate_factors": factors}
