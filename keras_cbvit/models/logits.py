"""Detects whether a classifier outputs logits or probabilities."""

import keras
import numpy as np

from keras_cbvit.internals import producer_of

# Activations whose outputs are probabilities; all others give logits.
PROBABILITIES = ("softmax", "sigmoid", "hard_sigmoid")
# Layers that are the identity at inference, up to the shape.
PASSED = (
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.Reshape,
)
IMAGES = 8


def gives_logits(model: keras.Model) -> bool:
    """Returns whether a classifier outputs logits rather than probabilities.

    The last activation decides: softmax and sigmoid give probabilities, any other or
    none gives logits. If it cannot be determined, for instance because the last layer
    comes from another package, the function predicts eight random images and checks
    whether all outputs are between 0 and 1.

    Args:
        model: a Keras model from images of values 0-255 to one output of shape
            `(batch, classes)`.
    """
    outputs = getattr(model, "outputs", None)
    known = _gives_logits(outputs[0]) if outputs else None
    return _predicts_logits(model) if known is None else known


def _gives_logits(tensor):
    """Returns whether a tensor holds logits; `None` if its operation does not tell."""
    operation, inputs, index = producer_of(tensor)
    if isinstance(operation, keras.Model):
        outputs = getattr(operation, "outputs", None)
        return _gives_logits(outputs[index]) if outputs else None
    if isinstance(operation, PASSED):
        return _gives_logits(inputs[0])
    if isinstance(operation, keras.layers.Average):
        found = {_gives_logits(each) for each in inputs}
        return found.pop() if len(found) == 1 else None
    if isinstance(operation, keras.layers.Softmax):
        return False
    activation = getattr(operation, "activation", None)
    if activation is None:
        # `keras.ops` are known; any other layer may have an activation inside.
        name = type(operation).__name__
        return False if name in ("Softmax", "Sigmoid", "HardSigmoid") else None
    try:
        name = keras.activations.serialize(activation)
    except (TypeError, ValueError):  # a custom function
        return None
    if name == "linear" and isinstance(operation, keras.layers.Activation):
        return _gives_logits(inputs[0])
    return name not in PROBABILITIES if isinstance(name, str) else None


def _predicts_logits(model):
    """Returns whether predictions of random images are not all between 0 and 1."""
    sides = [side or 64 for side in model.input_shape[1:3]]
    shape = (IMAGES, *sides, model.input_shape[3])
    images = np.random.default_rng(0).uniform(0, 255, shape).astype("float32")
    found = keras.ops.convert_to_numpy(model(images, training=False))
    return not (np.all(found >= 0) and np.all(found <= 1))
