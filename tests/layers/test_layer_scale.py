import keras
import numpy as np
import pytest

from keras_cbvit.layers import LayerScale
from tests.compare import assert_close, dtype_of
from tests.gradients import gradients
from tests.round_trip import round_trip


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3)])
def test_each_channel_is_multiplied_by_its_factor(shape):
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    layer = LayerScale()
    layer.build((None, *shape))
    layer.gamma.assign([1.0, -2.0, 0.5])
    assert_close(layer(x), x * np.array([1.0, -2.0, 0.5]))


@pytest.mark.parametrize("value", [1e-5, 0, 2.5])
def test_every_factor_starts_from_the_initial_value(value):
    layer = LayerScale(value)
    layer.build((None, 4, 3))
    assert_close(layer.gamma, np.full(3, value), atol=1e-12)
    assert [weight.path for weight in layer.weights] == [f"{layer.name}/gamma"]
    default = LayerScale()
    default.build((None, 3))
    assert_close(default.gamma, np.full(3, 1e-5), atol=1e-12)


def test_its_factors_get_the_gradient_of_their_channel():
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    layer = LayerScale(0.5)
    layer.build(x.shape)
    (of_x,), (of_gamma,) = gradients(
        lambda x: keras.ops.sum(layer(x) ** 2), x, variables=[layer.gamma]
    )
    assert_close(of_x, 2 * 0.25 * x, atol=1e-6)
    assert_close(of_gamma, (2 * 0.5 * x**2).sum((0, 1)), atol=1e-5)


def test_the_output_is_of_the_compute_dtype():
    layer = LayerScale(dtype="mixed_bfloat16")
    assert dtype_of(layer(np.zeros((1, 2, 3), "float32"))) == "bfloat16"
    assert layer.gamma.dtype == "float32"


def test_every_argument_comes_back_from_the_configuration():
    round_trip(LayerScale, initial_value=0.25, name="ls1", dtype="mixed_bfloat16")


@pytest.mark.parametrize("value", [float("nan"), "1", None, True])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="initial_value=.* must be a "):
        LayerScale(value)
