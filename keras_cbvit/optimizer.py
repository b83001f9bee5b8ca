"""AdamW with a learning rate of its own for each weight, as fine-tuning needs it."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras

from keras_cbvit.annotations import Tensor
from keras_cbvit.arguments import number_between, refuse


@keras.saving.register_keras_serializable(package="keras_cbvit")
class AdamW(keras.optimizers.AdamW):
    """Keras's AdamW with a factor on the learning rate of each weight.

    The factor scales the weight decay, too, as the decoupled weight decay is a share of
    the learning rate. Keras has no such factors, and a gradient that is scaled instead
    changes nothing: Adam divides by its size. Only kernels decay, as in DeiT and timm:
    not biases, norms, Λ, tokens or position embeddings.

    Args:
        learning_rate: a float or a schedule, as Keras's.
        weight_decay: as Keras's, of the kernels.
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
        self._is_restored = False

    def build(self, var_list: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        paths = [variable.path for variable in var_list]
        for path in self.learning_rate_factors:
            # A file has no LoRA any more, of which its optimizer still has factors.
            if path not in paths and not self._is_restored:
                refuse(
                    "learning_rate_factors",
                    path,
                    "names no trainable weight; make the factors of the model that is "
                    "compiled, after its layers are frozen.",
                )
        self._factors = [self.learning_rate_factors.get(path, 1.0) for path in paths]
        # TensorFlow's own variables, which the update gets, have other names.
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
        """Keras's, at one learning rate for all; `update_step` does it instead."""

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
