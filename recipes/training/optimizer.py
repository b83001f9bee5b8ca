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
    """
    parts = training.accumulation_steps
    adamw, loss_scale = AdamW, keras.optimizers.LossScaleOptimizer
    if is_mirrored():
        adamw, loss_scale = MirroredAdamW, MirroredLossScaleOptimizer
    average = {}
    if training.ema_decay is not None:
        # Keras averages after every step, also after those without an update.
        decay = training.ema_decay ** (1 / parts)
        average = {"use_ema": True, "ema_momentum": decay}
    optimizer = adamw(
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
        return loss_scale(optimizer)
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


class SumOverReplicas(keras.optimizers.Optimizer):
    """A mixin for optimizers under TensorFlow's `MirroredStrategy`: it sums first.

    Each replica has the gradients of its share of the batch. Keras sums them in the
    update. That is too late: each replica has clipped its own, the loss scaling has
    looked at those of the first replica alone, and accumulation fails, since an update
    that merges replicas cannot stand inside a condition. Here the gradients are summed
    before anything else. Then all replicas do the same with the same gradients, each
    with its own copy of the variables.
    """

    def apply_gradients(self, grads_and_vars):
        summed = self._all_reduce_sum_gradients(grads_and_vars)
        return super().apply_gradients(summed)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        """Keras's, without its sum."""
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            self.update_step(gradient, variable, learning_rate)

    def _backend_increment_gradient_accumulators(self, grads, acc_grads):
        """Keras's, without merging the replicas."""
        for gradient, accumulator in zip(grads, acc_grads, strict=True):
            accumulator.assign_add(gradient)


class MirroredAdamW(SumOverReplicas, AdamW):
    """AdamW under `MirroredStrategy`."""


class MirroredLossScaleOptimizer(SumOverReplicas, keras.optimizers.LossScaleOptimizer):
    """Keras's under `MirroredStrategy`; any replica's infinity skips the step."""
