import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_cbvit.layers import AdaptiveAveragePooling
from tests.compare import assert_close, assert_equal, dtype_of
from tests.round_trip import round_trip


def by_loops(x, bins):
    """The means of the bins that PyTorch documents, one after the other."""
    _, height, width, _ = x.shape
    y = np.zeros((len(x), bins, bins, x.shape[-1]))
    for i in range(bins):
        rows = slice(i * height // bins, math.ceil((i + 1) * height / bins))
        for j in range(bins):
            columns = slice(j * width // bins, math.ceil((j + 1) * width / bins))
            y[:, i, j] = x[:, rows, columns].mean(axis=(1, 2))
    return y


# Bins that divide the sides, that do not, and more bins than places.
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(6, 12), (7, 10), (2, 4)])
def test_bins_are_those_of_pytorch(bins, size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    layer = AdaptiveAveragePooling(bins)
    assert_close(layer(x), by_loops(x, bins), atol=1e-6)
    assert layer.compute_output_shape(x.shape) == (2, bins, bins, 3)


def test_the_size_may_be_unknown():
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, AdaptiveAveragePooling(2)(inputs))
    assert model.output_shape == (None, 2, 2, 1)
    for size in ((3, 5), (4, 2)):
        x = np.random.default_rng(0).normal(size=(1, *size, 1)).astype("float32")
        assert_close(model.predict(x, verbose=0), by_loops(x, 2), atol=1e-6)


def test_the_mean_of_many_places_is_wide_in_half_precision():
    # In 8 bits 256 + 1 is 256.
    x = ops.ones((1, 64, 64, 1), dtype="bfloat16")
    y = AdaptiveAveragePooling(1, dtype="bfloat16")(x)
    assert dtype_of(y) == "bfloat16"
    assert_equal(y, [[[[1.0]]]])


def test_every_argument_comes_back_from_the_configuration():
    round_trip(AdaptiveAveragePooling, bins=3, name="pool", dtype="mixed_bfloat16")
