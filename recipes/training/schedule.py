"""DeiT's learning rate."""

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
