import math

import keras
import numpy as np
import pytest

from keras_cbvit.layers import MLP, ContextBroadcast
from tests.compare import assert_close
from tests.round_trip import round_trip


def gelu(x):
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def with_weights(kernel1, bias1, kernel2, bias2, **places):
    """An MLP of one channel and one hidden channel."""
    layer = MLP(1, **places)
    layer.build((None, None, 1))
    layer.fc1.set_weights([np.array([[kernel1]]), np.array([bias1])])
    layer.fc2.set_weights([np.array([[kernel2]]), np.array([bias2])])
    return layer


@pytest.mark.parametrize("x", [-2.0, -0.5, 1.0, 3.0])
def test_it_is_fc_gelu_fc(x):
    layer = with_weights(0.5, 0.25, -3.0, 4.0)
    expected = -3 * gelu(0.5 * x + 0.25) + 4
    assert_close(layer(np.full((1, 1, 1), x)), [[[expected]]], atol=1e-5)


def test_front_is_before_the_first_fc_mid_after_the_activation_end_after_the_second():
    x = 0.25
    layer = with_weights(
        3.0,
        -1.0,
        -1.0,
        4.0,
        front=keras.layers.Rescaling(2.0, offset=0.5),
        mid=keras.layers.Rescaling(5.0, offset=2.0),
        end=keras.layers.Rescaling(0.5, offset=-3.0),
    )
    expected = 0.5 * (-1 * (5 * gelu(3 * (2 * x + 0.5) - 1) + 2) + 4) - 3
    assert_close(layer(np.full((1, 1, 1), x)), [[[expected]]], atol=1e-5)


def test_a_place_gets_the_channels_that_pass_there():
    places = {p: ContextBroadcast(scale=True) for p in ("front", "mid", "end")}
    layer = MLP(20, **places)
    y = layer(np.zeros((2, 3, 8), "float32"))
    assert y.shape == (2, 3, 8)
    assert [places[p].channel_scale.shape for p in places] == [(8,), (20,), (8,)]


def test_kernels_start_small_and_biases_at_zero():
    layer = MLP(300)
    layer.build((None, None, 100))
    for dense in (layer.fc1, layer.fc2):
        assert dense.kernel.numpy().std() == pytest.approx(0.02, rel=0.03)
        assert (dense.bias.numpy() == 0).all()


def test_every_argument_comes_back_from_the_configuration():
    copy = round_trip(
        MLP,
        hidden_dim=5,
        front=ContextBroadcast(context="max"),
        mid=ContextBroadcast(scale=True),
        end=keras.layers.Rescaling(2.0),
        activation="swiglu",
        name="perceptron",
        dtype="mixed_bfloat16",
    )
    assert [layer.context for layer in copy.front] == ["max"]
    assert [layer.scale for layer in copy.mid] == [True]
    assert [layer.scale for layer in copy.end] == [2.0]
    copy.build((None, None, 3))
    assert copy.fc1.units == 10
    assert copy.fc2.dtype_policy.name == "mixed_bfloat16"
