"""Stochastic depth."""

from typing import Any

import keras
from keras import ops

from keras_cbvit import backend
from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import check_shape, drop_rate, whole_number
from keras_cbvit.layers.parts import Part


@keras.saving.register_keras_serializable(package="keras_cbvit")
class DropPath(Part):
    """Drops a whole branch of a residual block for some samples of a batch.

    In training, each sample is set to zero with probability `rate` and divided by
    `1 - rate` otherwise, which keeps the expectation (Huang et al. 2016; per sample
    as in DeiT, whose training the paper uses, section 4). At inference, and with
    `rate=0`, the layer is the identity.

    Args:
        rate: probability of dropping a sample, `0 <= rate < 1`.
        seed: optional integer, the seed of the layer's own generator.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of any shape whose first axis is the batch.
        training: whether to drop.

    Returns:
        A tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if `rate` is outside `[0, 1)` or `seed` is not an integer.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.rate = drop_rate("rate", rate)
        self.seed = seed
        if seed is not None:
            self.seed = whole_number("seed", seed, least=-(2**31), most=2**31 - 1)
        self.input_spec = keras.layers.InputSpec(min_ndim=1)
        if self.rate > 0:
            self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = False) -> Tensor:
        if not training or self.rate == 0:
            return inputs
        # In float32: TensorFlow's bfloat16 draws are too coarse (0.009 drops 0.015).
        one_per_sample = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        mask = keras.random.dropout(
            ops.ones(one_per_sample, "float32"),
            self.rate,
            noise_shape=one_per_sample,  # without it torch ignores the generator
            seed=self.seed_generator,
        )
        kept = ops.cast(mask > 0, backend.wide_dtype(inputs.dtype))
        return inputs * ops.cast(kept * (1 / (1 - self.rate)), inputs.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        check_shape(self, input_shape)
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
