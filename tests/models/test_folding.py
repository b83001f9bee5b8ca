import keras
import numpy as np
import pytest

import keras_cbvit
from keras_cbvit.analysis import scale_layers
from tests.tiny import first_on_each_backend, tiny

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 12, 3)).astype("float32")


def with_scale(value=1.0, **options):
    """A small CB_S model of random weights whose every λ is the same."""
    model = tiny(broadcast="cbs", classifier_activation=None, **options)
    random = np.random.default_rng(0)
    model.set_weights([random.normal(scale=0.3, size=w.shape) for w in model.weights])
    for layer in scale_layers(model).values():
        layer.channel_scale.assign(np.full(layer.channel_scale.shape, value))
    return model


@pytest.mark.parametrize(
    "options",
    first_on_each_backend(
        [
            {},
            {"broadcast_place": "mlp_front"},
            {"broadcast_place": "mlp_mid"},
            {"broadcast_place": "msa_end"},
            {"broadcast_place": "both", "layer_scale": 0.5, "squeeze_excitation": True},
            {"broadcast_blocks": "upper", "context": "max"},
            {"broadcast_blocks": (0,), "context": "token"},
            {"broadcast_place": "mlp_mid", "activation": "swiglu"},
            {"broadcast_place": "msa_end", "uniform_head": "replaced"},
        ]
    ),
    ids=str,
)
def test_the_cb_model_predicts_the_same(options):
    model = with_scale(**options)
    folded = keras_cbvit.fold_context_broadcast(model)
    assert folded.spec == model.spec.replace(broadcast="cb")
    expected, found = (m.predict(IMAGES, verbose=0) for m in (model, folded))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_the_weights_before_cb_are_doubled():
    model = with_scale(depth=1)
    old = {name: w.numpy() for name, w in model.weights_by_name().items()}
    folded = keras_cbvit.fold_context_broadcast(model)
    doubled = {"block_0/mlp/fc2/kernel", "block_0/mlp/fc2/bias"}
    new = folded.weights_by_name()
    assert old.keys() - new.keys() == {"block_0/mlp/context_broadcast/scale"}
    for name, weight in new.items():
        factor = 2 if name in doubled else 1
        np.testing.assert_array_equal(weight.numpy(), factor * old[name])


def test_names_of_classes_stay():
    model = with_scale(depth=1)
    model.class_names = ("a", "b", "c")
    assert keras_cbvit.fold_context_broadcast(model).class_names == ("a", "b", "c")


def test_what_is_no_cb_model_is_refused():
    fold = keras_cbvit.fold_context_broadcast
    with pytest.raises(
        ValueError, match="mlp/context_broadcast/scale has a λ of 0.5, but"
    ):
        fold(with_scale(0.5))
    with pytest.raises(ValueError, match="broadcast='cb' has no Λ to fold"):
        fold(tiny())
    with pytest.raises(ValueError, match="not a VisionTransformer"):
        fold(keras.Sequential())
    model = with_scale()
    keras_cbvit.enable_lora(model, 2)
    with pytest.raises(ValueError, match="has LoRA; call merge_lora"):
        fold(model)
