import keras
import numpy as np
import pytest

from keras_cbvit.layers import ResizeLike
from tests.compare import assert_close, assert_equal, dtype_of
from tests.round_trip import round_trip


def by_hand(x, size):
    """Bilinear, corners not aligned: the middles of pixels are what is mapped."""
    for axis, new in zip((1, 2), size, strict=True):
        old = x.shape[axis]
        places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        x = np.apply_along_axis(
            lambda v, p=places: np.interp(p, range(len(v)), v), axis, x
        )
    return x


@pytest.mark.parametrize("size", [(3, 4), (6, 8), (7, 5), (12, 16)])
def test_a_map_grows_as_by_hand(size):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    like = np.zeros((2, *size, 1), "float32")
    layer = ResizeLike()
    assert_close(layer(x, like), by_hand(x, size), atol=1e-5)
    assert layer.compute_output_shape(x.shape, like.shape) == (2, *size, 5)


def test_the_size_may_be_unknown():
    inputs = keras.Input((None, None, 1)), keras.Input((None, None, 2))
    model = keras.Model(inputs, ResizeLike()(*inputs))
    assert model.output_shape == (None, None, None, 1)
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 1)).astype("float32")
    for size in ((4, 6), (5, 3)):
        like = np.zeros((1, *size, 2), "float32")
        y = model.predict([x, like], verbose=0)
        assert_close(y, by_hand(x, size), atol=1e-5)


def test_integer_images_may_be_what_gives_the_size():
    like = np.zeros((1, 2, 2, 3), "uint8")
    assert_equal(
        ResizeLike()(np.ones((1, 1, 1, 1), "float32"), like), np.ones((1, 2, 2, 1))
    )


def test_a_map_stays_of_its_dtype():
    x = keras.ops.ones((1, 2, 2, 1), dtype="bfloat16")
    like = keras.ops.ones((1, 4, 4, 1), dtype="bfloat16")
    assert dtype_of(ResizeLike(dtype="bfloat16")(x, like)) == "bfloat16"
    assert dtype_of(ResizeLike(dtype="float32")(x, like)) == "float32"


def test_it_comes_back_from_the_configuration():
    dtype = keras.dtype_policies.get("mixed_bfloat16")
    round_trip(ResizeLike, name="logits", dtype=dtype)
