"""Learning rates: DeiT's for classification, mmsegmentation's for segmentation."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_cbvit")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then a cosine over the whole training, the warm-up included.

    DeiT steps once per epoch, this goes on with every step; at the start of each
    epoch the two agree.

    Args:
        peak: learning rate that the warm-up leads to.
        epochs: length of the training.
        steps_per_epoch: steps of an epoch.
        warmup_epochs: length of the warm-up.
        warmup_start: learning rate of the first step.
        minimum: learning rate that the cosine ends at.
    """

    def __init__(
        self, peak, epochs, steps_per_epoch, warmup_epochs, warmup_start, minimum
    ):
        super().__init__()
        self.peak = peak
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.warmup_epochs = warmup_epochs
        self.warmup_start = warmup_start
        self.minimum = minimum

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
        rise = (self.peak - self.warmup_start) / max(self.warmup_epochs, 1)
        warmup = self.warmup_start + rise * epoch
        wave = 1 + ops.cos(math.pi * ops.minimum(epoch / self.epochs, 1))
        cosine = self.minimum + (self.peak - self.minimum) / 2 * wave
        return ops.where(epoch < self.warmup_epochs, warmup, cosine)

    def get_config(self):
        return {
            "peak": self.peak,
            "epochs": self.epochs,
            "steps_per_epoch": self.steps_per_epoch,
            "warmup_epochs": self.warmup_epochs,
            "warmup_start": self.warmup_start,
            "minimum": self.minimum,
        }


@keras.saving.register_keras_serializable(package="keras_cbvit")
class WarmupPolynomial(keras.optimizers.schedules.LearningRateSchedule):
    """Polynomial decay to 0, whose beginning is multiplied by a linear warm-up.

    The rate of iteration i, from 0 on, is peak · (1 - i / iterations)^power, during the
    warm-up times 1 - (1 - i / warmup_iterations) · (1 - warmup_ratio): it begins at
    peak · warmup_ratio and meets the decay, not the peak.

    Args:
        peak: learning rate that the decay begins at.
        iterations: length of the training, after which the rate is 0.
        warmup_iterations: length of the warm-up.
        warmup_ratio: share of the rate that the warm-up begins with.
        power: of the decay.
    """

    def __init__(
        self, peak, iterations, warmup_iterations=1500, warmup_ratio=1e-6, power=1.0
    ):
        super().__init__()
        self.peak = peak
        self.iterations = iterations
        self.warmup_iterations = warmup_iterations
        self.warmup_ratio = warmup_ratio
        self.power = power

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
        return {
            "peak": self.peak,
            "iterations": self.iterations,
            "warmup_iterations": self.warmup_iterations,
            "warmup_ratio": self.warmup_ratio,
            "power": self.power,
        }
