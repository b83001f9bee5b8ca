"""A model that augments its training batches on the device."""

import keras

from ..data.on_device import augment


class Augmented(keras.Model):
    """A functional model's layers; `fit` takes `recipes.data.batches.TrainingBatches`.

    Augmentation is part of the compiled training step. What the model computes, its
    weights and their names stay the same.
    """

    def __init__(self, model):
        super().__init__(model.input, model.output, name=model.name)

    def train_step(self, *arguments):
        # JAX: state and data, the others: data.
        *state, (batch, labels) = arguments
        return super().train_step(*state, augment(batch, labels))
