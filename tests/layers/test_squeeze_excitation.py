import math

import numpy as np
import pytest

from keras_cbvit.layers import SqueezeExcitation
from tests.compare import assert_close, dtype_of
from tests.round_trip import round_trip


def test_the_mean_token_opens_and_shuts_the_channels():
    layer = SqueezeExcitation(ratio=2)
    x = np.array([[[1.0, 5.0], [3.0, -1.0]]])  # the mean token is (2, 2)
    layer.build((None, 2, 2))
    layer.fc1.set_weights([np.array([[1.0], [2.0]]), np.array([-3.0])])  # 3
    layer.fc2.set_weights([np.array([[1.0, -1.0]]), np.array([0.5, 0.0])])
    gate = [1 / (1 + math.exp(-3.5)), 1 / (1 + math.exp(3.0))]
    assert_close(layer(x), x * gate, atol=1e-6)


def test_what_the_first_layer_finds_negative_does_not_count():
    layer = SqueezeExcitation(ratio=2)
    layer.build((None, 2, 2))
    layer.fc1.set_weights([np.array([[1.0], [2.0]]), np.array([-9.0])])
    layer.fc2.set_weights([np.array([[1.0, -1.0]]), np.array([0.0, 0.0])])
    x = np.array([[[1.0, 5.0], [3.0, -1.0]]])
    assert_close(layer(x), x / 2, atol=1e-6)


def test_it_has_its_ratio_of_channels_and_at_least_one():
    layer = SqueezeExcitation()
    layer.build((None, None, 192))
    assert layer.count_params() == 192 * 12 + 12 + 12 * 192 + 192
    layer = SqueezeExcitation()
    layer.build((None, None, 8))
    assert layer.fc1.kernel.shape == (8, 1)


def test_the_output_is_of_the_compute_dtype():
    layer = SqueezeExcitation(dtype="mixed_bfloat16")
    assert dtype_of(layer(np.ones((1, 2, 16), "float32"))) == "bfloat16"


@pytest.mark.parametrize("ratio", [0, 2.5])
def test_a_ratio_that_is_no_count_is_refused(ratio):
    with pytest.raises(ValueError, match=f"ratio={ratio} must be a whole number"):
        SqueezeExcitation(ratio=ratio)


def test_every_argument_comes_back_from_the_configuration():
    round_trip(SqueezeExcitation, ratio=4, name="se", dtype="mixed_bfloat16")
