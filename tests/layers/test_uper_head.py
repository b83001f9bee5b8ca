import keras
import numpy as np
import pytest

from keras_cbvit.layers import FCNHead, PyramidPooling, UperHead
from tests.compare import assert_close, dtype_of
from tests.gradients import gradients
from tests.round_trip import round_trip
from tests.upernet import maps, reference, scales, shapes, with_weights


def uper_head():
    layer = UperHead(3, 4, dropout_rate=0.0, name="uper_head")
    return with_weights(layer, shapes(scales()))


def auxiliary_head():
    layer = FCNHead(3, 5, dropout_rate=0.0, name="auxiliary_head")
    return with_weights(layer, shapes(scales())[2])


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_logits_are_those_of_pytorch(mode):
    layer, inputs = uper_head(), scales(mode)
    logits = layer(inputs, training=mode == "train")
    assert_close(logits, reference()[f"{mode}/logits"], atol=1e-4)
    assert layer.compute_output_shape(shapes(inputs)) == (None, 28, 40, 3)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_auxiliary_logits_are_those_of_pytorch(mode):
    layer, inputs = auxiliary_head(), scales(mode)[2]
    logits = layer(inputs, training=mode == "train")
    assert_close(logits, reference()[f"{mode}/auxiliary"], atol=1e-5)
    assert layer.compute_output_shape(inputs.shape) == (2, 7, 10, 3)


def test_gradients_are_those_of_pytorch():
    head, auxiliary = uper_head(), auxiliary_head()

    def loss(*inputs):
        main = keras.ops.sum(head(list(inputs), training=True) ** 2)
        side = keras.ops.sum(auxiliary(inputs[2], training=True) ** 2)
        return main + 0.4 * side

    found, _ = gradients(loss, *scales("train"))
    for i in range(4):
        expected = reference()[f"train/gradient_{i}"]
        assert np.abs(expected).max() > 0.1
        assert_close(found[i], expected, atol=1e-4 * np.abs(expected).max())


def test_the_sizes_may_be_unknown():
    inputs = [keras.Input((None, None, channels)) for channels in (2, 3, 4, 5)]
    model = keras.Model(inputs, UperHead(3, 4)(inputs))
    assert model.output_shape == (None, None, None, 3)
    for sides in ((8, 4, 2, 1), (9, 5, 3, 2)):
        x = [np.zeros((1, side, side, 2 + i)) for i, side in enumerate(sides)]
        assert model.predict(x, verbose=0).shape == (1, sides[0], sides[0], 3)


def test_dropout_drops_whole_channels_before_the_classifier():
    layer = FCNHead(50, 40, dropout_rate=0.5)
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 2)).astype("float32")
    layer.build(x.shape)
    layer.convolution.norm.beta.assign(np.full(40, 10.0))  # ReLU leaves all as it is
    layer.classifier.set_weights([np.eye(40, 50)[None, None], np.zeros(50)])
    dropped = keras.ops.convert_to_numpy(layer(x, training=True))[..., :40] == 0
    whole = dropped.all(axis=(1, 2))
    assert (whole == dropped.any(axis=(1, 2))).all()
    assert 0.3 < whole.mean() < 0.7
    assert not (keras.ops.convert_to_numpy(layer(x))[..., :40] == 0).any()


def test_the_classifier_starts_normal():
    layer = FCNHead(150, 64)
    layer.build((None, None, None, 8))
    assert layer.classifier.kernel.numpy().std() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("layer_class", [FCNHead, UperHead])
def test_every_argument_comes_back_from_the_configuration(layer_class):
    copy = round_trip(
        layer_class,
        classes=3,
        channels=4,
        dropout_rate=0.2,
        name="head",
        dtype="mixed_bfloat16",
    )
    y = copy(scales() if layer_class is UperHead else scales()[2])
    assert dtype_of(y) == "bfloat16"


def test_pyramid_pooling_comes_back_from_the_configuration():
    copy = round_trip(PyramidPooling, channels=4, name="pool", dtype="mixed_bfloat16")
    y = copy(maps()[0])
    assert y.shape == (2, 7, 10, 4)
    assert dtype_of(y) == "bfloat16"
