"""Learning rates: DeiT's for classification, mmsegmentation's for segmentation."""

import dataclasses
import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_cbvit")
@dataclasses.dataclass(eq=False)
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then a cosine over the whole training, the warm-up included.

    DeiT steps once per epoch, this goes on with every step; at the start of each
    epoch the two agree.
    """

    peak: float
    """Learning rate that the warm-up leads to."""
    epochs: int
    """Length of the training."""
    steps_per_epoch: int
    warmup_epochs: float
    warmup_start: float
    """Learning rate of the first step."""
    minimum: float
    """Learning rate that the cosine ends at."""

    @classmethod
    def of(cls, training, steps_per_epoch):
        """That of a classification; a larger batch has a higher peak."""
        return cls(
            peak=training.base_learning_rate * training.global_batch_size / 1024,
            epochs=training.epochs,
            steps_per_epoch=steps_per_epoch,
            warmup_epochs=training.warmup_epochs,
            warmup_start=training.warmup_learning_rate,
            minimum=training.minimum_learning_rate,
        )

    def __call__(self, step):
        epoch = ops.cast(step, "float32") / self.steps_per_epoch
        rise = (self.peak - self.warmup_start) / (self.warmup_epochs or 1)
        warmup = self.warmup_start + rise * epoch
        wave = 1 + ops.cos(math.pi * ops.minimum(epoch / self.epochs, 1))
        cosine = self.minimum + (self.peak - self.minimum) / 2 * wave
        return ops.where(epoch < self.warmup_epochs, warmup, cosine)

    def get_config(self):
        return dataclasses.asdict(self)


@keras.saving.register_keras_serializable(package="keras_cbvit")
@dataclasses.dataclass(eq=False)
class WarmupPolynomial(keras.optimizers.schedules.LearningRateSchedule):
    """Polynomial decay to 0, whose beginning is multiplied by a linear warm-up.

    The rate of iteration i, from 0 on, is peak · (1 - i / iterations)^power, during the
    warm-up times 1 - (1 - i / warmup_iterations) · (1 - warmup_ratio): it begins at
    peak · warmup_ratio and meets the decay, not the peak.
    """

    peak: float
    """Learning rate that the decay begins at."""
    iterations: int
    """Length of the training, after which the rate is 0."""
    warmup_iterations: float = 1500
    warmup_ratio: float = 1e-6
    """Share of the rate that the warm-up begins with."""
    power: float = 1.0
    """Of the decay."""

    @classmethod
    def of(cls, training):
        """That of a segmentation."""
        return cls(
            training.learning_rate,
            training.iterations,
            training.warmup_iterations,
            training.warmup_ratio,
        )

    def __call__(self, step):
        step = ops.cast(step, "float32")
        # Subtracted before it is divided: the last rates are small differences.
        left = ops.maximum(self.iterations - step, 0) / self.iterations
        warm = 1.0
        if self.warmup_iterations:
            done = ops.minimum(step / self.warmup_iterations, 1)
            warm = done + self.warmup_ratio * (1 - done)
        return self.peak * left**self.power * warm

    def get_config(self):
        return dataclasses.asdict(self)
