import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

import keras_cbvit
from tests.compare import assert_close
from tests.tiny import QUANTIZED_FILES, fill, images, tiny
from tests.tiny import predict as call


@pytest.fixture
def model():
    return fill(tiny(num_register_tokens=2))


def test_maps_are_the_tokens_of_the_patches(model):
    x = images(model)
    for maps, tokens in zip(
        model.features(x), model.features(x, reshape=False), strict=True
    ):
        assert maps.shape == (4, 2, 3, 16)
        assert tokens.shape == (4, 1 + 2 + 6, 16)
        assert_close(maps, np.reshape(to_numpy(tokens)[:, 3:], (4, 2, 3, 16)), atol=0)


def test_the_head_follows_from_the_last_features(model):
    x = images(model)
    (tokens,) = model.features(x, blocks=[1], norm=True, reshape=False)
    kernel, bias = (to_numpy(weight) for weight in model.head.weights)
    logits = to_numpy(tokens)[:, 0] @ kernel + bias
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = shares / shares.sum(axis=1, keepdims=True)
    assert_close(call(model, x), expected, atol=1e-5)


def test_images_may_be_of_any_size(model, tmp_path):
    model.save(tmp_path / "model.keras")
    weights = tmp_path / "model.keras"
    of_any = keras_cbvit.ViTCB(weights=weights, input_shape=(None, None, 3))
    x = images(model)
    assert_close(of_any.features(x)[1], to_numpy(model.features(x)[1]), atol=1e-5)
    larger = keras_cbvit.ViTCB(weights=weights, input_shape=(16, 8, 3))
    x = images(larger)
    expected = to_numpy(larger.features(x, blocks=[1])[0])
    assert expected.shape == (4, 4, 2, 16)
    assert_close(of_any.features(x, blocks=[1])[0], expected, atol=1e-5)
    network = of_any.feature_model([1])
    assert_close(network.predict_on_batch(x), expected, atol=1e-5)


def test_a_feature_model_is_saved_and_loaded(model, tmp_path):
    x = images(model)
    network = model.feature_model([0, 1], norm=True)
    expected = network.predict(x, verbose=0)
    network.save(tmp_path / "features.keras")
    loaded = keras_cbvit.load_model(tmp_path / "features.keras")
    for one, other in zip(loaded.predict(x, verbose=0), expected, strict=True):
        assert_close(one, other, atol=1e-6)


@QUANTIZED_FILES
def test_features_are_of_the_weights_of_now(model):
    x = images(model)
    before = to_numpy(model.features(x)[1])
    fill(model, seed=3)
    changed = to_numpy(model.features(x)[1])
    assert_close(changed, to_numpy(model.feature_model([1])(x)), atol=1e-6)
    assert np.abs(changed - before).max() > 1e-2
    model.quantize("int8")
    quantized = to_numpy(model.features(x)[1])
    assert_close(quantized, to_numpy(model.feature_model([1])(x)), atol=1e-6)
    assert np.abs(quantized - changed).max() > 1e-4


def test_nothing_is_added_to_the_model_by_each_call(model):
    x = images(model)
    model.features(x, norm=True)
    before = [len(each._outbound_nodes) for each in model.operations]
    for _ in range(3):
        model.features(x, norm=True)
    assert [len(each._outbound_nodes) for each in model.operations] == before
    assert len(model.layers) == len(fill(tiny(num_register_tokens=2)).layers)


@pytest.mark.any_backend
@pytest.mark.parametrize("blocks", [[], [2], [1, 0], [0, 0], [-1], ["0"], 0, None])
def test_blocks_that_are_not_there_are_refused(model, blocks):
    if blocks is None:  # all
        assert len(model.features(images(model), blocks)) == 2
        return
    with pytest.raises(ValueError, match="must be ascending indices of the 2 blocks"):
        model.features(images(model), blocks)
    for wrong in ({"norm": [1]}, {"reshape": [1]}):
        with pytest.raises(ValueError, match=r"=\[1\] is unknown; use one of"):
            model.features(images(model), **wrong)


@pytest.mark.any_backend
def test_a_norm_after_pooling_is_none_of_tokens():
    model = tiny(fc_norm=True, pooling="avg")
    with pytest.raises(ValueError, match="normalizes pooled features"):
        model.features(images(model), norm=True)
