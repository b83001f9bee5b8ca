"""The parts of Keras used here that are not public; checked with Keras 3.12 to 3.15."""

import keras


def layers_within(
    layer: keras.layers.Layer, recursive: bool = True
) -> list[keras.layers.Layer]:
    """The layers that a layer or model has as parts, in the order of their creation.

    Args:
        layer: a layer or model.
        recursive: whether to look into the parts as well.
    """
    return layer._flatten_layers(include_self=False, recursive=recursive)


def has_strategy(model: keras.Model) -> bool:
    """Whether a model was built under a `tf.distribute.Strategy`."""
    return model._distribute_strategy is not None


def producer_of(
    tensor: keras.KerasTensor,
) -> tuple[keras.Operation, list[keras.KerasTensor], int]:
    """What made a tensor of a functional model.

    Returns:
        The layer or operation, what it was called on, and which of its outputs the
        tensor is.
    """
    operation, node, index = tensor._keras_history
    return operation, operation._inbound_nodes[node].input_tensors, index


def moving_averages(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """An optimizer's averages of the trainable weights, in their order (`use_ema`)."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return optimizer._model_variables_moving_average
