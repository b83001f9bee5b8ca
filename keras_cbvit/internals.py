"""The parts of Keras used here that are not public; checked with Keras 3.12 to 3.15."""

import keras
import numpy as np


def layers_within(
    layer: keras.layers.Layer, recursive: bool = True
) -> list[keras.layers.Layer]:
    """The layers that a layer or model has as parts, in the order of their creation.

    Args:
        layer: a layer or model.
        recursive: whether to look into the parts as well.
    """
    # Not `_flatten_layers`, which has the parts of each layer in reverse.
    found = {}
    for part in layer._layers:
        inner = layers_within(part) if recursive else ()
        found |= {id(each): each for each in (part, *inner) if id(each) not in found}
    return list(found.values())


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


def forget_calls(operation: keras.Operation) -> None:
    """Leaves the graphs that a layer or operation is in, so that it joins a new one.

    `layer.output` is of its first graph.
    """
    operation._inbound_nodes.clear()


def replace_part(
    layer: keras.layers.Layer, old: keras.layers.Layer, new: keras.layers.Layer
) -> None:
    """Puts a part in the place of another one, in the attributes of a built layer."""
    layer._tracker.replace_tracked_value("layers", old, new)
    # torch keeps layers apart from other attributes.
    attributes = {**vars(layer), **vars(layer).get("_modules", {})}
    for name, value in attributes.items():
        if value is old:
            setattr(layer, name, new)
        elif isinstance(value, list | tuple) and any(each is old for each in value):
            setattr(layer, name, [new if each is old else each for each in value])


def merged_kernel(layer: keras.layers.Dense) -> np.ndarray:
    """The kernel of a dense layer with its LoRA added, in the kernel's precision.

    Keras's own sum, `layer.kernel`, is in the compute dtype, which has fewer bits in
    mixed precision.
    """
    kernel, a, b = (
        np.asarray(keras.ops.convert_to_numpy(weight), "float64")
        for weight in (layer._kernel, layer.lora_kernel_a, layer.lora_kernel_b)
    )
    return kernel + layer.lora_alpha / layer.lora_rank * (a @ b)


def fold_lora(layer: keras.layers.Dense) -> None:
    """Adds a dense layer's LoRA to its kernel, and takes it out of the layer."""
    layer._kernel.assign(merged_kernel(layer))
    for name in ("lora_kernel_a", "lora_kernel_b"):
        # Not `delattr`, of which Keras collects garbage each time.
        layer._untrack_variable(getattr(layer, name))
        setattr(layer, name, None)
    layer.lora_enabled = False
    layer.lora_rank = layer.lora_alpha = None


def forget_functions(model: keras.Model) -> None:
    """Has Keras trace a model again, whose layers have other weights than before.

    The models within it, and the feature models of those, are traced again, too.
    """
    within = [each for each in layers_within(model) if isinstance(each, keras.Model)]
    for each in (model, *within):
        for traced in (each, *getattr(each, "feature_models", ())):
            traced.train_function = traced.test_function = None
            traced.predict_function = None
            # On torch, the parameters of the layers around them.
            traced._post_quantize(None)
