import keras
import numpy as np
import pytest

from keras_cbvit.layers import PatchEmbedding
from tests.compare import assert_close, dtype_of
from tests.round_trip import round_trip


@pytest.fixture
def example():
    """A layer, images of 2x3 patches, and the tokens a loop makes of them."""
    rng = np.random.default_rng(0)
    layer = PatchEmbedding(4, 5)
    layer.build((None, 8, 12, 3))
    kernel, bias = rng.normal(size=(4 * 4 * 3, 5)), rng.normal(size=5)
    layer.projection.set_weights([kernel, bias])
    images = rng.normal(size=(2, 8, 12, 3))
    tokens = [
        images[:, top : top + 4, left : left + 4].reshape(2, -1) @ kernel + bias
        for top in (0, 4)
        for left in (0, 4, 8)
    ]
    return layer, images.astype("float32"), np.stack(tokens, axis=1)


def test_each_patch_is_mapped_to_a_token_row_by_row(example):
    layer, images, tokens = example
    assert_close(layer(images), tokens, atol=1e-4)


def test_the_size_of_the_images_may_be_unknown(example):
    layer, images, tokens = example
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, None, 5)
    assert_close(model.predict(images, verbose=0), tokens, atol=1e-4)


def test_the_kernel_starts_uniform_as_pytorchs_convolutions():
    layer = PatchEmbedding(8, 64)
    layer.build((None, 8, 8, 3))
    kernel = layer.projection.kernel.numpy()
    bound = 1 / np.sqrt(8 * 8 * 3)
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.03)


@pytest.mark.parametrize("height, width", [(8, 10), (10, 8)])
def test_a_patch_size_that_does_not_divide_the_sides_is_refused(height, width):
    message = f"patch_size=4 does not divide the size of the images, {height}x{width}"
    with pytest.raises(ValueError, match=message):
        PatchEmbedding(4, 5)(np.zeros((1, height, width, 3), "float32"))


def test_every_argument_comes_back_from_the_configuration():
    copy = round_trip(
        PatchEmbedding, patch_size=4, hidden_dim=5, name="patches", dtype="bfloat16"
    )
    y = copy(np.zeros((1, 8, 12, 3), "float32"))
    assert y.shape == (1, 6, 5)
    assert dtype_of(y) == "bfloat16"
