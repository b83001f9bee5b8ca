"""Gradients on whichever backend Keras runs."""

import keras
import numpy as np


def gradients(function, *arrays, variables=()):
    """Gradients of the scalar `function(*arrays)`, as two lists of NumPy arrays.

    The first is with respect to the arrays, the second to the Keras variables.
    """
    of_backend = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    values = of_backend[keras.backend.backend()](function, arrays, variables)
    values = [keras.ops.convert_to_numpy(value) for value in values]
    return values[: len(arrays)], values[len(arrays) :]


def _tensorflow(function, arrays, variables):
    import tensorflow as tf

    tensors = [tf.constant(array) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        result = function(*tensors)
    return tape.gradient(
        result,
        [*tensors, *(variable.value for variable in variables)],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )


def _jax(function, arrays, variables):
    import jax

    def of_values(tensors, values):
        with keras.StatelessScope(zip(variables, values, strict=True)):
            return function(*tensors)

    tensors = [jax.numpy.asarray(array) for array in arrays]
    values = [variable.value for variable in variables]
    of_tensors, of_variables = jax.grad(of_values, argnums=(0, 1))(tensors, values)
    return [*of_tensors, *of_variables]


def _torch(function, arrays, variables):
    import torch

    tensors = [torch.tensor(np.asarray(array), requires_grad=True) for array in arrays]
    inputs = [*tensors, *(variable.value for variable in variables)]
    found = torch.autograd.grad(function(*tensors), inputs, allow_unused=True)
    return [
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(inputs, found, strict=True)
    ]
