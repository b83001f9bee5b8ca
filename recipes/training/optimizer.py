"""AdamW with the options of the recipes."""

import keras
from keras import ops

import keras_cbvit
from keras_cbvit.analysis import scale_layers
from keras_cbvit.internals import layers_within
from keras_cbvit.models.fine_tuning import backbone_layers

from .devices import is_mirrored


def build_optimizer(training, schedule, model, steps_per_epoch):
    """Returns AdamW with the weight decay exclusions of DeiT and XCiT.

    They are set before the optimizer is wrapped for float16, because the wrapper does
    not pass them on.

    Args:
        training: `Training` options of a task. An update takes `accumulation_steps`
            steps.
        schedule: learning rate schedule.
        model: model to train.
        steps_per_epoch: number of steps in an epoch.
    """
    parts = training.accumulation_steps
    adamw, loss_scale = AdamW, keras.optimizers.LossScaleOptimizer
    if is_mirrored():
        adamw, loss_scale = MirroredAdamW, MirroredLossScaleOptimizer
    average = {}
    if training.ema_decay is not None:
        # Keras averages after every step, even one without an update.
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
    # The dtype policy of a functional model may differ from that of its layers.
    if any(layer.compute_dtype == "float16" for layer in layers_within(model)):
        return loss_scale(optimizer)
    return optimizer


def _by_weight(training, model, steps_per_epoch):
    """Returns the optimizer's arguments that apply to individual weights."""
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
    """`keras_cbvit.AdamW` with delayed weights and linear ramps.

    When training ends, the model keeps its trained weights; Keras would overwrite them
    with their moving averages.

    Args:
        starts: dict from a weight's path to the number of updates that leave it
            unchanged.
        ramps: dict from a weight's path to the number of updates over which it rises
            from 0 to 1, regardless of its gradient.
        **kwargs: arguments of `keras_cbvit.AdamW`.
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
    """A mixin that sums gradients first under TensorFlow's `MirroredStrategy`.

    Each replica has the gradients of its share of the batch, and Keras sums them in the
    update. That is too late: each replica clips its own gradients, loss scaling checks
    only those of the first replica, and accumulation fails, since an update that merges
    replicas cannot run inside a condition. This mixin sums the gradients first, so all
    replicas apply the same gradients to their copies of the variables.
    """

    def apply_gradients(self, grads_and_vars):
        summed = self._all_reduce_sum_gradients(grads_and_vars)
        return super().apply_gradients(summed)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        """Updates the variables as Keras does, without summing gradients."""
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            self.update_step(gradient, variable, learning_rate)

    def _backend_increment_gradient_accumulators(self, grads, acc_grads):
        """Accumulates gradients as Keras does, without merging replicas."""
        for gradient, accumulator in zip(grads, acc_grads, strict=True):
            accumulator.assign_add(gradient)


class MirroredAdamW(SumOverReplicas, AdamW):
    """AdamW under `MirroredStrategy`."""


class MirroredLossScaleOptimizer(SumOverReplicas, keras.optimizers.LossScaleOptimizer):
    """Loss scaling under `MirroredStrategy`; inf on any replica skips the step."""
