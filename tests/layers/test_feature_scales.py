import keras
import numpy as np
import pytest

from keras_cbvit.layers import FeatureScales
from tests.compare import assert_close, dtype_of
from tests.round_trip import round_trip
from tests.upernet import maps, scales, shapes, with_weights


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_scales_are_those_of_pytorch(mode):
    layer = with_weights(FeatureScales(name="feature_scales"), shapes(maps()))
    found = layer(maps(), training=mode == "train")
    for y, expected in zip(found, scales(mode), strict=True):
        assert_close(y, expected, atol=1e-5)
    assert layer.compute_output_shape(shapes(maps())) == shapes(scales())


def test_the_size_may_be_unknown():
    inputs = [keras.Input((None, None, 2)) for _ in range(4)]
    model = keras.Model(inputs, FeatureScales()(inputs))
    assert [tuple(y.shape) for y in model.outputs] == [(None, None, None, 2)] * 4
    y = model.predict([np.zeros((1, 3, 2, 2), "float32")] * 4, verbose=0)
    assert [x.shape[1:3] for x in y] == [(12, 8), (6, 4), (3, 2), (1, 1)]


def test_a_map_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="maps of 1x3 patches are too small; images"):
        FeatureScales()([np.zeros((1, 1, 3, 2), "float32")] * 4)


def test_it_comes_back_from_the_configuration():
    dtype = keras.dtype_policies.get("mixed_bfloat16")
    copy = round_trip(FeatureScales, name="scales", dtype=dtype)
    assert {dtype_of(y) for y in copy(maps())} == {"bfloat16"}
