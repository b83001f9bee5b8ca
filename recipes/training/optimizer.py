"""The optimizer, AdamW."""

import keras

from keras_cbvit.internals import layers_within

from .devices import is_mirrored


def build_optimizer(training, schedule, model):
    """AdamW, without weight decay where DeiT and XCiT have none.

    The exclusions are given to it before it is wrapped for float16, because the
    wrapper does not pass them on.

    Args:
        training: the `Training` of a task. With its `accumulation_steps`, an update
            takes so many steps.
        schedule: the learning rate by the step.
        model: the model to train.

    Raises:
        ValueError: on what Keras's optimizer does not do on TensorFlow with several
            devices.
    """
    parts = training.accumulation_steps
    if is_mirrored():
        # Keras clips the gradients of each replica before they are summed up, and
        # cannot leave out an update.
        for name, wanted in (
            ("clip_norm", training.clip_norm is not None),
            ("accumulation_steps", parts > 1),
        ):
            if wanted:
                raise ValueError(
                    f"{name}={getattr(training, name)} does not work on TensorFlow "
                    "with several devices; use KERAS_BACKEND=jax or --devices 1."
                )
    average = {}
    if training.ema_decay is not None:
        # Keras averages after every step, also after those without an update.
        decay = training.ema_decay ** (1 / parts)
        average = {"use_ema": True, "ema_momentum": decay}
    optimizer = AdamW(
        schedule,
        weight_decay=training.weight_decay,
        beta_2=0.999,
        epsilon=1e-8,
        global_clipnorm=training.clip_norm,
        gradient_accumulation_steps=parts if parts > 1 else None,
        **average,
    )
    optimizer.exclude_from_weight_decay(undecayed(model))
    # A functional model's own policy says nothing of its layers'.
    if any(layer.compute_dtype == "float16" for layer in layers_within(model)):
        return LossScaleOptimizer(optimizer)
    return optimizer


@keras.saving.register_keras_serializable(package="keras_cbvit")
class AdamW(keras.optimizers.AdamW):
    """Keras's, but leaves the trained weights in the model when training ends.

    Keras would put their moving averages in their place.
    """

    def finalize_variable_values(self, var_list):
        pass


@keras.saving.register_keras_serializable(package="keras_cbvit")
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Keras's, but skips a step if the gradients of any replica are not finite.

    Keras looks at those of the first replica alone, before they are summed: an
    infinity on another replica would make every weight NaN.
    """

    def check_finite(self, grads):
        finite = super().check_finite(grads)
        if keras.backend.backend() != "tensorflow":
            return finite
        import tensorflow as tf

        def everywhere(strategy, finite):
            return tf.reduce_all(strategy.experimental_local_results(finite))

        # No all_reduce, which met the collectives of the gradients in another order.
        replica = tf.distribute.get_replica_context()
        return replica.merge_call(everywhere, args=(finite,))


def undecayed(model):
    """Biases, norms, Λ, class token and position embedding: all but dense kernels."""
    return [v for v in model.trainable_variables if v.name != "kernel"]
