"""Learning rate schedules of DeiT (classification) and mmsegmentation."""

import dataclasses
import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_cbvit")
@dataclasses.dataclass(eq=False)
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Cosine decay over the whole training, whose start a linear warm-up replaces.

    Unlike DeiT's schedule, it changes at every step, not once per epoch; the two agree
    at the start of each epoch.
    """

    peak: float
    """Learning rate at the end of the warm-up."""
    epochs: int
    """Number of epochs of the training."""
    steps_per_epoch: int
    warmup_epochs: float
    warmup_start: float
    """Learning rate of the first step."""
    minimum: float
    """Learning rate at the end of the cosine."""

    @classmethod
    def of(cls, training, steps_per_epoch):
        """Returns the schedule of a classifier; its peak scales with the batch size."""
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
    """Polynomial decay to 0, multiplied by a linear warm-up.

    The learning rate of iteration i, counted from 0, is
    peak · (1 - i / iterations)^power. During the warm-up it is multiplied by
    1 - (1 - i / warmup_iterations) · (1 - warmup_ratio), so it starts at
    peak · warmup_ratio and joins the decay below the peak.
    """

    peak: float
    """Learning rate at the start of the decay."""
    iterations: int
    """Number of iterations of the training, after which the learning rate is 0."""
    warmup_iterations: float = 1500
    warmup_ratio: float = 1e-6
    """Factor of the learning rate at the start of the warm-up."""
    power: float = 1.0
    """Exponent of the decay."""

    @classmethod
    def of(cls, training):
        """Returns the schedule of a segmentation model."""
        return cls(
            training.learning_rate,
            training.iterations,
            training.warmup_iterations,
            training.warmup_ratio,
        )

    def __call__(self, step):
        step = ops.cast(step, "float32")
        # Subtracts before dividing, which keeps the small last rates precise.
        left = ops.maximum(self.iterations - step, 0) / self.iterations
        warm = 1.0
        if self.warmup_iterations:
            done = ops.minimum(step / self.warmup_iterations, 1)
            warm = done + self.warmup_ratio * (1 - done)
        return self.peak * left**self.power * warm

    def get_config(self):
        return dataclasses.asdict(self)
