"""The optimizer, AdamW."""

import keras
from keras import ops

import keras_cbvit
from keras_cbvit.analysis import scale_layers
from keras_cbvit.internals import layers_within
from keras_cbvit.models.fine_tuning import backbone_layers

from .devices import is_mirrored


def build_optimizer(training, schedule, model, steps_per_epoch):
    """AdamW, without weight decay where DeiT and XCiT have none.

    The exclusions are given to it before it is wrapped for float16, because the
    wrapper does not pass them on.

    Args:
        training: the `Training` of a task. With its `accumulation_steps`, an update
            takes so many steps.
        schedule: the learning rate by the step.
        model: the model to train.
        steps_per_epoch: steps of an epoch.

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
        **_by_weight(training, model, steps_per_epoch),
    )
    # A functional model's own policy says nothing of its layers'.
    if any(layer.compute_dtype == "float16" for layer in layers_within(model)):
        return LossScaleOptimizer(optimizer)
    return optimizer


def _by_weight(training, model, steps_per_epoch):
    """What the optimizer does differently for some weights, as its arguments."""
    found = {}
    if training.layer_decay is not None:
        factors = keras_cbvit.layer_decay(model, training.layer_decay)
        found["learning_rate_factors"] = factors
    if training.head_warmup_epochs:
        steps = training.head_warmup_epochs * steps_per_epoch
        first = round(steps / training.accumulation_steps)
        found["starts"] = {
            weight.path: first
            for layer in backbone_layers(model)
            for weight in layer.trainable_variables
        }
    if training.anneal_context is not None:
        scales = [each.channel_scale.path for each in scale_layers(model).values()]
        found["ramps"] = dict.fromkeys(scales, training.anneal_context)
    return found


class AdamW(keras_cbvit.AdamW):
    """The library's, which may train some weights later, and set others itself.

    It leaves the trained weights in the model when training ends; Keras would put
    their moving averages in their place.

    Args:
        starts: by a weight's path, how many updates leave it as it is.
        ramps: by a weight's path, over how many updates it goes from 0 to 1, whatever
            its gradient.
        **kwargs: those of `keras_cbvit.AdamW`.
    """

    def __init__(self, *args, starts=None, ramps=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.starts = starts or {}
        self.ramps = ramps or {}

    def build(self, var_list):
        paths = [variable.path for variable in var_list]
        self._starts = [self.starts.get(path, 0) for path in paths]
        self._ramps = [self.ramps.get(path, 0) for path in paths]
        super().build(var_list)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        start, ramp = self._starts[index], self._ramps[index]
        if ramp:
            done = ops.cast(self.iterations + 1, variable.dtype) / ramp
            value = ops.ones(variable.shape, variable.dtype) * ops.minimum(done, 1)
            self.assign(variable, value)
            return
        if start:
            learning_rate = ops.where(self.iterations < start, 0.0, learning_rate)
        super().update_step(gradient, variable, learning_rate)

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
