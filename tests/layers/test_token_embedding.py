import keras
import numpy as np
import pytest

from keras_cbvit.layers import ClassTokenAndPosition
from tests.compare import assert_equal, dtype_of
from tests.round_trip import round_trip


def test_the_class_token_comes_first_and_positions_are_added_to_all():
    layer = ClassTokenAndPosition()
    layer.build((None, 2, 3))
    layer.class_token.assign([[[1, 2, 3]]])
    layer.position_embedding.assign([[[10, 10, 10], [20, 20, 20], [30, 30, 30]]])
    x = np.array([[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]], "float32")
    expected = [
        [[11, 12, 13], [20, 21, 22], [33, 34, 35]],
        [[11, 12, 13], [26, 27, 28], [39, 40, 41]],
    ]
    assert_equal(layer(x), expected)


def test_the_batch_size_may_be_unknown():
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, ClassTokenAndPosition()(inputs))
    assert model.output_shape == (None, 5, 3)
    x = np.zeros((7, 4, 3), "float32")
    assert model.predict(x, verbose=0).shape == (7, 5, 3)


def test_both_start_normal():
    layer = ClassTokenAndPosition()
    layer.build((None, 20, 500))
    for weight in layer.weights:
        assert weight.numpy().std() == pytest.approx(0.02, rel=0.1)


def test_weights_stay_float32_under_mixed_precision():
    layer = ClassTokenAndPosition(dtype="mixed_float16")
    y = layer(np.zeros((1, 2, 3), "float32"))
    assert dtype_of(y) == "float16"
    assert {weight.dtype for weight in layer.weights} == {"float32"}


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "as a policy"])
def test_it_comes_back_from_the_configuration(dtype):
    if dtype == "as a policy":
        dtype = keras.dtype_policies.get("mixed_bfloat16")
    copy = round_trip(ClassTokenAndPosition, name="tokens", dtype=dtype)
    assert copy.dtype_policy.name == "mixed_bfloat16"
