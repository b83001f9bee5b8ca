"""A model small enough for tests, and what they do with it."""

import keras
import numpy as np
import pytest

import keras_cbvit

TINY = {
    "input_shape": (8, 12, 3),
    "patch_size": 4,
    "hidden_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2,
    "classes": 3,
}

# Keras 3.12 does not keep how layers are quantized in their configurations.
QUANTIZED_FILES = pytest.mark.skipif(
    not hasattr(keras.quantizers, "QuantizationConfig"), reason="of a newer Keras"
)


def first_on_each_backend(values):
    """Parameters of which the first runs on each backend, the others on torch."""
    first, *others = values
    return [first, *(pytest.param(o, marks=pytest.mark.any_backend) for o in others)]


def tiny(**changes):
    """A small model; `classes=None` leaves them out, as for `include_top=False`."""
    arguments = {**TINY, **changes}
    if arguments["classes"] is None:
        del arguments["classes"]
    return keras_cbvit.ViTCB(**arguments)


def fill(model, seed=0):
    """Gives every weight a random value, so that none is what it starts with."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.normal(scale=0.3, size=weight.shape))
    return model


def train(model):
    """One step of training by an optimizer with a state."""
    model.compile(
        keras.optimizers.SGD(1.0, momentum=0.9), "sparse_categorical_crossentropy"
    )
    return model.fit(images(model), np.array([0, 1, 2, 0]), verbose=0)


def images(model, count=4):
    """Random images of values 0–255."""
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(1).uniform(0, 255, shape).astype("float32")


def predict(model, x=None):
    x = images(model) if x is None else x
    return keras.ops.convert_to_numpy(model(x, training=False))


def values(model):
    """The value of every weight by its path."""
    return {weight.path: weight.numpy() for weight in model.weights}


def assert_same_values(found, expected):
    assert found.keys() == expected.keys()
    for path in expected:
        np.testing.assert_array_equal(found[path], expected[path], err_msg=path)
