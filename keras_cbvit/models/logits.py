"""Whether a classifier gives logits or probabilities, decided once for a model."""

import keras
import numpy as np

from keras_cbvit.internals import producer_of

# What gives probabilities, as an activation and as an operation; others give logits.
PROBABILITIES = ("softmax", "sigmoid", "hard_sigmoid")
# What changes no values, or none at inference.
PASSED = (
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.Reshape,
)
IMAGES = 8


def gives_logits(model: keras.Model) -> bool:
    """Whether a classifier gives logits rather than probabilities.

    Its last activation decides: softmax and sigmoid give probabilities, any other and
    none logits. Where a model does not have one that is known, such as one whose last
    layer is of another package, eight random images do: all probabilities are from 0 to
    1, as hardly any logits are.

    Args:
        model: a Keras model of images of values 0-255 and of one output of shape
            `(batch, classes)`.
    """
    outputs = getattr(model, "outputs", None)
    known = _gives_logits(outputs[0]) if outputs else None
    return _gives_logits_of_random_images(model) if known is None else known


def _gives_logits(tensor):
    """Whether a tensor of a model is logits; `None` if what made it does not say."""
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
        # One of `keras.ops`; whether another layer has one is not known.
        name = type(operation).__name__
        return False if name in ("Softmax", "Sigmoid", "HardSigmoid") else None
    try:
        name = keras.activations.serialize(activation)
    except (TypeError, ValueError):  # a function of its own
        return None
    if name == "linear" and isinstance(operation, keras.layers.Activation):
        return _gives_logits(inputs[0])
    return name not in PROBABILITIES if isinstance(name, str) else None


def _gives_logits_of_random_images(model):
    sides = [side or 64 for side in model.input_shape[1:3]]
    shape = (IMAGES, *sides, model.input_shape[3])
    images = np.random.default_rng(0).uniform(0, 255, shape).astype("float32")
    found = keras.ops.convert_to_numpy(model(images, training=False))
    return not (np.all(found >= 0) and np.all(found <= 1))
