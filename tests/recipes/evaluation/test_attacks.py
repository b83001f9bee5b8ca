import keras
import numpy as np
import pytest
from keras import ops

from recipes.evaluation.attacks import fgsm, input_gradient, pgd
from tests.tiny import fill, images, predict, tiny

SHAPE = (2, 3, 3)
RIGHT = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 1], [1, 0, 0]], bool)


def linear(activation=None):
    """A linear classifier of three classes behind a normalization; its kernel."""
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Rescaling(1 / 51, -2.0),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation=activation),
        ]
    )
    kernel = np.random.default_rng(0).normal(size=(18, 3))
    model.set_weights([kernel, np.zeros(3)])
    return model, kernel.astype("float32").astype("float64")


def pictures():
    random = np.random.default_rng(1)
    images = random.uniform(0, 255, (4, *SHAPE)).astype("float32")
    images[0].flat[:6] = (0, 0, 0, 255, 255, 255)  # where there is something to clip
    return images


def gradient_by_hand(images, kernel):
    """Of -ln of the sum of the right classes' probabilities: W (p - q) / 51.

    q is p among the right classes, and 0 for the others.
    """
    logits = (images.reshape(4, -1).astype("float64") / 51 - 2) @ kernel
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    q = np.where(RIGHT, p, 0)
    q /= q.sum(axis=1, keepdims=True)
    return ((p - q) @ kernel.T / 51).reshape(images.shape)


def as_tensors(*arrays):
    return [ops.convert_to_tensor(array) for array in arrays]


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_the_gradient_of_a_linear_model_is_that_by_hand(activation):
    model, kernel = linear(activation)
    logits = activation is None
    found = input_gradient(model, *as_tensors(pictures(), RIGHT), logits)
    expected = gradient_by_hand(pictures(), kernel)
    np.testing.assert_allclose(
        ops.convert_to_numpy(found), expected, rtol=1e-3, atol=1e-6
    )
    assert np.abs(expected).max() > 1e-3


def test_the_gradient_of_a_vision_transformer_is_the_slope_of_its_loss():
    model = fill(tiny(depth=1))
    pixels = images(model)
    right = np.eye(3, dtype=bool)[[0, 1, 2, 0]]
    gradient = input_gradient(model, *as_tensors(pixels, right), logits=False)
    gradient = ops.convert_to_numpy(gradient)

    def losses(x):
        return -np.log(predict(model, x)[right].astype("float64"))

    norms = np.linalg.norm(gradient.reshape(4, -1), axis=1)
    assert norms.min() > 1e-4
    step = 0.5 * gradient / norms[:, None, None, None]  # half a pixel value along it
    slopes = losses(pixels + step) - losses(pixels - step)
    np.testing.assert_allclose(slopes, norms, rtol=0.02)


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 7.5])
def test_fgsm_steps_along_the_sign_and_stays_valid(epsilon):
    model, kernel = linear()
    images = pictures()
    found = fgsm(model, *as_tensors(images, RIGHT), epsilon, logits=True)
    signs = np.sign(gradient_by_hand(images, kernel))
    expected = np.clip(images + epsilon * signs, 0, 255)
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-4)


def test_fgsm_finds_the_way_where_a_softmax_is_certain():
    """Losses that keep probabilities below 1 - 1e-7 have no gradient there."""
    model, kernel = linear("softmax")
    images, right = pictures(), np.tile([True, False, False], (4, 1))
    model.set_weights([kernel, np.array([20.0, 0, 0])])
    probabilities = ops.convert_to_numpy(model(images))
    certain = probabilities[:, 0] > 1 - 1e-7
    assert certain.any()
    found = fgsm(model, *as_tensors(images, right), 1.0, logits=False)
    found = ops.convert_to_numpy(found)
    assert np.all((found != images).any(axis=(1, 2, 3)))


def test_pgd_comes_to_the_same_corner_on_a_linear_model():
    """Of two classes, so that the gradient's sign is the same everywhere."""
    model, kernel = linear()
    kernel[:, 2] = 0
    model.set_weights([kernel, np.array([0, 0, -1e9])])
    images, right = pictures(), np.array([[1, 0, 0], [0, 1, 0]] * 2, bool)
    start = np.random.default_rng(2).uniform(-1, 1, images.shape).astype("float32")
    start = ops.convert_to_tensor(start)
    found = pgd(model, *as_tensors(images, right), 5.0, True, start)
    away = np.sign(kernel[:, 1] - kernel[:, 0]).reshape(SHAPE)
    signs = np.where(right[:, :1, None, None], away, -away)
    expected = np.clip(images + 5 * signs, 0, 255)
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-4)


def test_pgd_finds_what_fgsm_does_not():
    """Logits 0 and 1 - |x - 100|²/100: at x = 100 there is no gradient."""
    images = keras.Input(SHAPE)
    offset = keras.layers.Rescaling(0.1, -10.0)(keras.layers.Flatten()(images))
    squared = keras.layers.Multiply()([offset, offset])
    model = keras.Model(images, keras.layers.Dense(2)(squared))
    kernel = np.stack([np.zeros(18), -np.ones(18)], axis=1)
    model.set_weights([kernel, np.array([0, 1])])
    at_top = np.full((4, *SHAPE), 100, "float32")
    right = np.tile([False, True], (4, 1))
    arguments = [model, *as_tensors(at_top, right), 3.0, True]
    np.testing.assert_array_equal(ops.convert_to_numpy(fgsm(*arguments)), at_top)
    start = np.random.default_rng(0).uniform(-1, 1, at_top.shape).astype("float32")
    found = ops.convert_to_numpy(pgd(*arguments, ops.convert_to_tensor(start)))
    np.testing.assert_allclose(found, at_top + 3 * np.sign(start), atol=1e-4)


@pytest.mark.parametrize("steps", [1, 3])
def test_pgd_stays_near_and_valid_whatever_the_step(steps):
    model, _ = linear()
    images = pictures()
    start = np.random.default_rng(2).uniform(-1, 1, images.shape).astype("float32")
    found = ops.convert_to_numpy(
        pgd(
            model,
            *as_tensors(images, RIGHT),
            4.0,
            True,
            ops.convert_to_tensor(start),
            steps=steps,
            step_size=100.0,
        )
    )
    assert np.abs(found - images).max() <= 4 + 1e-4
    assert (found.min(), found.max()) == (0, 255)
    assert not np.allclose(found, images)


def test_nothing_is_left_in_the_model():
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    before = [weight.numpy().copy() for weight in model.weights]
    images, right = as_tensors(pictures(), RIGHT)
    first, second = (input_gradient(model, images, right, True) for _ in range(2))
    # No dropout.
    np.testing.assert_array_equal(
        ops.convert_to_numpy(first), ops.convert_to_numpy(second)
    )
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
        assert getattr(weight.value, "grad", None) is None
    np.testing.assert_array_equal(ops.convert_to_numpy(images), pictures())
    assert not getattr(images, "requires_grad", False)
