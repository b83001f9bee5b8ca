import functools

import keras
import numpy as np
import pytest
from keras import ops

from keras_cbvit.models.logits import gives_logits
from recipes.evaluation.metrics import Among
from tests.tiny import tiny

SHAPE = (4, 6, 3)
LAYERS = keras.layers


class Own(keras.layers.Layer):
    """A layer that does not say what it gives."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


class Subclassed(keras.Model):
    def __init__(self, activation):
        super().__init__()
        self.dense = LAYERS.Dense(3, activation=activation)
        self.build((None, *SHAPE))

    def build(self, input_shape):
        self.dense.build((None, 3))
        self.built = True

    def call(self, inputs):
        return self.dense(ops.mean(inputs, axis=(1, 2)) / 255)

    @property
    def input_shape(self):
        return (None, *SHAPE)


def functional(*layers):
    images = keras.Input(SHAPE)
    x = LAYERS.GlobalAveragePooling2D()(images)
    for layer in layers:
        x = layer(x)
    return keras.Model(images, x)


def nested(model):
    images = keras.Input(model.input_shape[1:])
    return keras.Model(images, model(LAYERS.Rescaling(1.0)(images)))


@pytest.mark.parametrize(
    ("activation", "logits"),
    [("softmax", False), ("sigmoid", False), (None, True), ("relu", True)],
)
def test_the_last_activation_decides(activation, logits):
    vit = tiny(classifier_activation=activation)
    dense = LAYERS.Dense(3, activation=activation)
    models = [
        vit,
        nested(vit),
        keras.Sequential([keras.Input(vit.input_shape[1:]), vit]),
        functional(dense),
        nested(nested(functional(dense))),
        keras.Sequential(
            [
                keras.Input(SHAPE),
                LAYERS.Flatten(),
                dense.from_config(dense.get_config()),
            ]
        ),
        functional(LAYERS.Dense(3), LAYERS.Activation(activation)),
        # As mixed precision has it, and what changes nothing.
        functional(dense, LAYERS.Activation("linear", dtype="float32")),
        functional(dense, LAYERS.Dropout(0.5), LAYERS.Reshape((3,))),
    ]
    assert [gives_logits(model) for model in models] == [logits] * len(models)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "float16"])
def test_softmax_is_known_in_any_form_and_precision(dtype):
    for last in (
        LAYERS.Softmax(dtype=dtype),
        ops.softmax,
        LAYERS.Activation("softmax"),
    ):
        assert not gives_logits(functional(LAYERS.Dense(3, dtype=dtype), last))
    last = LAYERS.Activation("log_softmax")
    assert gives_logits(functional(LAYERS.Dense(3, dtype=dtype), last))


def test_where_a_model_does_not_say_random_images_decide():
    dense = LAYERS.Dense(3)
    assert not gives_logits(functional(dense, Own(ops.softmax)))
    assert gives_logits(functional(dense, Own(lambda x: x)))
    assert gives_logits(functional(dense, LAYERS.Rescaling(2.0)))  # a temperature
    halves = [LAYERS.Dense(3, activation="softmax") for _ in range(2)]
    mean = functional(lambda x: LAYERS.Average()([half(x) for half in halves]))
    assert not gives_logits(mean)
    assert not gives_logits(functional(dense, Own(ops.sigmoid)))
    own = LAYERS.Dense(3, activation=functools.partial(ops.softmax, axis=-1))
    assert not gives_logits(functional(own))
    assert not gives_logits(Subclassed("softmax"))
    assert gives_logits(Subclassed(None))


def test_among_some_classes_are_logits():
    probabilities = functional(LAYERS.Dense(3, activation="softmax"))
    among = Among([0, 2], gives_logits(probabilities))
    model = keras.Model(probabilities.input, among(probabilities.outputs[0]))
    assert gives_logits(model)
    x = np.random.default_rng(0).uniform(0, 1, (5, *SHAPE)).astype("float32")
    shares = ops.convert_to_numpy(probabilities(x))[:, [0, 2]]
    expected = np.log(shares / shares.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(ops.convert_to_numpy(model(x)), expected, atol=1e-5)
