"""Uses of Keras's private API, tested with Keras 3.12 to 3.15."""

import keras
import numpy as np


def layers_within(
    layer: keras.layers.Layer, recursive: bool = True
) -> list[keras.layers.Layer]:
    """Returns the sublayers of a layer or model, in order of creation.

    Args:
        layer: a layer or model.
        recursive: whether to include nested sublayers.
    """
    # Not `_flatten_layers`, which reverses the sublayers of each layer.
    found = {}
    for part in layer._layers:
        inner = layers_within(part) if recursive else ()
        found |= {id(each): each for each in (part, *inner) if id(each) not in found}
    return list(found.values())


def has_strategy(model: keras.Model) -> bool:
    """Returns whether a model was built under a `tf.distribute.Strategy`."""
    return model._distribute_strategy is not None


def producer_of(
    tensor: keras.KerasTensor,
) -> tuple[keras.Operation, list[keras.KerasTensor], int]:
    """Finds the operation that produced a tensor of a functional model.

    Returns:
        The layer or operation, its inputs, and the index of the tensor among its
        outputs.
    """
    operation, node, index = tensor._keras_history
    return operation, operation._inbound_nodes[node].input_tensors, index


def moving_averages(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Returns an optimizer's averages of trainable weights, in order (`use_ema`)."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return optimizer._model_variables_moving_average


def forget_calls(operation: keras.Operation) -> None:
    """Removes a layer or operation from all graphs, before it is used in a new one.

    `layer.output` always refers to the first graph.
    """
    operation._inbound_nodes.clear()


def replace_part(
    layer: keras.layers.Layer, old: keras.layers.Layer, new: keras.layers.Layer
) -> None:
    """Replaces a sublayer in the attributes of a built layer."""
    layer._tracker.replace_tracked_value("layers", old, new)
    # torch stores layers separately from other attributes.
    attributes = {**vars(layer), **vars(layer).get("_modules", {})}
    for name, value in attributes.items():
        if value is old:
            setattr(layer, name, new)
        elif isinstance(value, list | tuple) and any(each is old for each in value):
            setattr(layer, name, [new if each is old else each for each in value])


def merged_kernel(layer: keras.layers.Dense) -> np.ndarray:
    """Returns the kernel of a dense layer with LoRA added, in float64.

    Keras's `layer.kernel` is the sum in the compute dtype, which is less precise in
    mixed precision.
    """
    kernel, a, b = (
        np.asarray(keras.ops.convert_to_numpy(weight), "float64")
        for weight in (layer._kernel, layer.lora_kernel_a, layer.lora_kernel_b)
    )
    return kernel + layer.lora_alpha / layer.lora_rank * (a @ b)


def fold_lora(layer: keras.layers.Dense) -> None:
    """Merges a dense layer's LoRA into its kernel and removes it from the layer."""
    layer._kernel.assign(merged_kernel(layer))
    for name in ("lora_kernel_a", "lora_kernel_b"):
        # Not `delattr`, with which Keras runs the garbage collector each time.
        layer._untrack_variable(getattr(layer, name))
        setattr(layer, name, None)
    layer.lora_enabled = False
    layer.lora_rank = layer.lora_alpha = None


def forget_functions(model: keras.Model) -> None:
    """Makes Keras retrace a model after its layers' weights have changed.

    Includes nested models and the feature models of all of them.
    """
    within = [each for each in layers_within(model) if isinstance(each, keras.Model)]
    for each in (model, *within):
        for traced in (each, *getattr(each, "feature_models", ())):
            traced.train_function = traced.test_function = None
            traced.predict_function = None
            # On torch, updates the parameters of the outer layers.
            traced._post_quantize(None)
