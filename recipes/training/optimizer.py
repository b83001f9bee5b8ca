"""DeiT's optimiser."""

import keras

from recipes.training.schedule import WarmupCosine


def build_optimizer(training, steps_per_epoch, model):
    """AdamW with warm-up and cosine, without weight decay where DeiT has none.

    The exclusions are given to the optimizer before Keras wraps it for float16,
    because the wrapper does not pass them on.

    Args:
        training: a `recipes.experiment.Training`.
        steps_per_epoch: steps of an epoch.
        model: the model to train.
    """
    scale = training.global_batch_size / 1024
    optimizer = keras.optimizers.AdamW(
        WarmupCosine(
            peak=training.base_learning_rate * scale,
            epochs=training.epochs,
            steps_per_epoch=steps_per_epoch,
            warmup_epochs=training.warmup_epochs,
            warmup_start=training.warmup_learning_rate,
            minimum=training.minimum_learning_rate,
        ),
        weight_decay=training.weight_decay,
        beta_2=0.999,
        epsilon=1e-8,
    )
    optimizer.exclude_from_weight_decay(undecayed(model))
    return optimizer


def undecayed(model):
    """Biases, norms, Λ, class token and position embedding: all but dense kernels."""
    return [v for v in model.trainable_variables if v.name != "kernel"]
