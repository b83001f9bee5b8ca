import keras
import numpy as np
import pytest

from keras_cbvit import (
    SegmentationModel,
    feature_pyramid,
    predict_sliding,
    predict_whole,
)
from tests.compare import assert_close, assert_equal
from tests.tiny import tiny


@pytest.fixture
def doubling():
    """A model that doubles pixels, and the sizes of the images it was given."""
    sizes = []

    class Doubling(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, Doubling()(inputs))
    predict_on_batch = model.predict_on_batch

    def recorded(images):
        sizes.append(images.shape[1:3])
        return predict_on_batch(images)

    model.predict_on_batch = recorded
    return model, sizes


@pytest.fixture(scope="module")
def upernet():
    """A UperNet on a Vision Transformer of patches of 6 pixels."""
    vit = tiny(patch_size=6, input_shape=(12, 12, 3), depth=4)
    return SegmentationModel(feature_pyramid(vit, (0, 1, 2, 3)), classes=3, channels=4)


def pixels(height, width):
    return np.random.default_rng(0).normal(size=(2, height, width, 3)).astype("float32")


@pytest.mark.parametrize("size, padded", [((8, 12), (8, 12)), ((7, 13), (8, 16))])
def test_whole_images_are_padded_to_what_the_model_takes(size, padded, doubling):
    model, sizes = doubling
    assert_equal(predict_whole(model, pixels(*size), divisor=4), 2 * pixels(*size))
    assert sizes == [padded]


@pytest.mark.parametrize(
    "size, windows",
    [((8, 8), 1), ((9, 8), 2), ((14, 18), 6), ((5, 20), 3), ((3, 4), 1)],
)
def test_windows_cover_images_of_any_size(size, windows, doubling):
    model, sizes = doubling
    y = predict_sliding(model, pixels(*size), window=(8, 8), stride=(6, 6))
    assert_close(y, 2 * pixels(*size), atol=1e-6)
    assert sizes == [(8, 8)] * windows


def test_where_windows_overlap_predictions_are_averaged():
    # Each window's pixels become the mean of the window.
    inputs = keras.Input((None, None, 1))
    mean = keras.layers.GlobalAveragePooling2D(keepdims=True)(inputs)
    model = keras.Model(inputs, mean + 0 * inputs)
    images = np.arange(5.0, dtype="float32").reshape(1, 1, 5, 1)
    # Windows from 0, 2 and, the last, 2: of 0-2 and 2-4, and no third.
    y = predict_sliding(model, images, window=(1, 3), stride=(1, 2))
    assert_close(y[0, 0, :, 0], [1, 1, 2, 3, 3])
    # Windows from 0, 1 and 2.
    y = predict_sliding(model, images, window=(1, 3), stride=(1, 1))
    assert_close(y[0, 0, :, 0], [1, 1.5, 2, 2.5, 3])
    # Windows from 0 and, so that it ends with the image, 2.
    y = predict_sliding(model, images, window=(1, 3), stride=(1, 3))
    assert_close(y[0, 0, :, 0], [1, 1, 2, 3, 3])


@pytest.mark.parametrize("stride", [(9, 8), (0, 8), (8, -1)])
def test_a_stride_that_leaves_pixels_out_is_refused(stride, doubling):
    with pytest.raises(ValueError, match="must be at least 1 and at most window="):
        predict_sliding(doubling[0], pixels(16, 16), window=(8, 8), stride=stride)


def test_images_are_padded_to_patches_of_the_model(upernet, doubling):
    padded = np.pad(pixels(20, 13), [(0, 0), (0, 4), (0, 5), (0, 0)], mode="edge")
    expected = upernet.predict_on_batch(padded)[:, :20, :13]
    assert_equal(predict_whole(upernet, pixels(20, 13)), expected)
    model, sizes = doubling
    predict_whole(model, pixels(20, 13))
    assert sizes == [(32, 16)]


@pytest.mark.any_backend
def test_a_window_that_patches_do_not_divide_is_refused(upernet):
    message = r"window=\(13, 18\) must be .* patch_size=6, for instance \(18, 18\)\."
    with pytest.raises(ValueError, match=message):
        predict_sliding(upernet, pixels(20, 20), window=(13, 18), stride=(6, 6))
    y = predict_sliding(upernet, pixels(20, 20), window=(18, 18), stride=(6, 6))
    assert y.shape == (2, 20, 20, 3)


@pytest.mark.parametrize("predict", [predict_whole, predict_sliding])
def test_one_image_without_a_batch_is_refused(predict, doubling):
    message = r"of shape \(batch, .*, not \(8, 8, 3\); images\[None\] makes"
    with pytest.raises(ValueError, match=message):
        predict(doubling[0], pixels(8, 8)[0])
