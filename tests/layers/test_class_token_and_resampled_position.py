import keras
import numpy as np
import pytest

from keras_cbvit.layers import ClassTokenAndPosition, ClassTokenAndResampledPosition
from keras_cbvit.pretrained.position_embedding import resample_position_embedding
from tests.compare import assert_close, assert_equal, dtype_of
from tests.round_trip import round_trip


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(1, 1, 5)), rng.normal(size=(1, 1 + 3 * 4, 5))]


@pytest.fixture
def model(weights):
    """The layer, of a grid of 3x4 patches of 2 pixels, for images of any size."""
    tokens, images = keras.Input((None, 5)), keras.Input((None, None, 3))
    layer = ClassTokenAndResampledPosition(2, (3, 4))
    model = keras.Model([tokens, images], layer(tokens, images))
    layer.set_weights(weights)
    return model


def inputs(rows, columns):
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(2, rows * columns, 5)).astype("float32")
    return tokens, np.zeros((2, 2 * rows, 2 * columns, 3), "float32")


def test_on_its_own_grid_it_is_the_plain_layer(model, weights):
    tokens, images = inputs(3, 4)
    plain = ClassTokenAndPosition()
    plain.build(tokens.shape)
    plain.set_weights(weights)
    assert_equal(model([tokens, images]), keras.ops.convert_to_numpy(plain(tokens)))


# More, fewer, more and fewer, as many patches as in the grid but not its grid.
@pytest.mark.parametrize("grid", [(6, 5), (2, 3), (7, 2), (4, 3), (1, 1)])
def test_on_another_grid_it_is_what_weights_loaded_for_it_are(model, weights, grid):
    tokens, images = inputs(*grid)
    class_token, position = weights
    position = resample_position_embedding(position, (3, 4), grid)
    expected = np.concatenate([np.repeat(class_token, 2, axis=0), tokens], axis=1)
    y = model.predict([tokens, images], verbose=0)
    assert_close(y, expected + position, atol=1e-5)


def test_weights_have_the_names_of_the_plain_layer():
    layers = (
        ClassTokenAndPosition(name="x"),
        ClassTokenAndResampledPosition(2, (1, 2), name="x"),
    )
    layers[0].build((None, 2, 3))
    layers[1].build((None, None, 3), (None, None, None, 3))
    plain, resampled = ([(w.path, w.shape) for w in layer.weights] for layer in layers)
    assert plain == resampled


def test_the_output_is_of_the_compute_dtype():
    layer = ClassTokenAndResampledPosition(2, (3, 4), dtype="mixed_bfloat16")
    assert dtype_of(layer(*inputs(2, 2))) == "bfloat16"
    assert {weight.dtype for weight in layer.weights} == {"float32"}


def test_every_argument_comes_back_from_the_configuration():
    round_trip(
        ClassTokenAndResampledPosition,
        patch_size=2,
        grid=(3, 4),
        name="tokens",
        dtype="mixed_bfloat16",
    )
