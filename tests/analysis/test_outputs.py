import keras
import numpy as np
import pytest

import keras_cbvit
from keras_cbvit.analysis import layer_outputs
from tests.compare import assert_close
from tests.tiny import fill, images, predict, tiny


@pytest.fixture(scope="module")
def model():
    return fill(tiny())


def test_cb_is_half_of_a_token_and_half_of_the_mean(model):
    """Of a block, by hand: what fc2 gives is half kept, half replaced by its mean."""
    found = layer_outputs(
        model, images(model), ["block_1/mlp/fc2", "block_1/mlp/context_broadcast"]
    )
    assert list(found) == ["block_1/mlp/fc2", "block_1/mlp/context_broadcast"]
    x, broadcast = found.values()
    expected = 0.5 * x + 0.5 * x.mean(axis=1, keepdims=True)
    assert_close(broadcast, expected, atol=1e-5)


def test_patterns_find_every_layer_in_the_order_they_run(model):
    found = layer_outputs(model, images(model), "*/context_broadcast")
    assert list(found) == [f"block_{i}/mlp/context_broadcast" for i in range(2)]
    blocks = layer_outputs(model, images(model), "block_?")
    for block, expected in zip(
        blocks.values(), model.features(images(model), reshape=False), strict=True
    ):
        np.testing.assert_array_equal(block, keras.ops.convert_to_numpy(expected))


def test_the_model_stays_as_it_is(model):
    before = predict(model)
    layer_outputs(model, images(model), "*")
    assert not any("call" in vars(layer) for layer in model._flatten_layers())
    np.testing.assert_array_equal(predict(model), before)


def test_models_of_other_layers(model):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, name="one")(inputs)
    x = keras_cbvit.ContextBroadcast(name="cb")(x[:, None])
    other = keras.Model(inputs, x, name="other")
    found = layer_outputs(other, np.ones((2, 4), "float32"), ["cb"])
    assert found["cb"].shape == (2, 1, 3)


@pytest.mark.any_backend
def test_a_layer_that_is_not_there_is_refused(model):
    with pytest.raises(ValueError, match="layers='block_7' matches no layer of vitcb"):
        layer_outputs(model, images(model), "block_7")


@pytest.mark.any_backend
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
def test_a_quantized_layer_gives_what_the_next_one_gets():
    """The head's outputs, by hand: the softmax of them is what the model predicts."""
    model = fill(tiny())
    model.quantize("int8")
    (logits,) = layer_outputs(model, images(model), "head").values()
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert_close(predict(model), shares / shares.sum(axis=1, keepdims=True), atol=1e-6)
    assert "quantized_call" not in vars(model.head)


@pytest.mark.any_backend
def test_a_path_of_several_layers_is_refused():
    inputs = x = keras.Input((4,))
    for name in ("one", "two"):
        inner = keras.Input((4,))
        x = keras.Model(inner, keras.layers.Dense(4, name="d")(inner), name=name)(x)
    other = keras.Model(inputs, keras.layers.Dense(3, name="last")(x), name="other")
    x = np.ones((2, 4), "float32")
    with pytest.raises(ValueError, match="other has several layers with the path d."):
        layer_outputs(other, x, "d")
    assert list(layer_outputs(other, x, "last")) == ["last"]


@pytest.mark.any_backend
@pytest.mark.parametrize("layers", [3, [3], None])
def test_what_is_no_path_is_refused(model, layers):
    with pytest.raises(ValueError, match="must be paths of layers, or patterns of pat"):
        layer_outputs(model, images(model), layers)
