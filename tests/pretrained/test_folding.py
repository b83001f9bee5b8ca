"""LayerScale in the projections before it computes what it computes as a layer."""

import keras
import numpy as np
import pytest

import keras_cbvit
from tests.compare import assert_close
from tests.tiny import fill, images, predict, tiny


@pytest.fixture
def save(tmp_path):
    """Saves a tiny model with LayerScale, and all weights random."""

    def save(**changes):
        model = fill(tiny(layer_scale=0.1, **changes))
        model.save(tmp_path / "model.keras")
        return model, tmp_path / "model.keras"

    return save


@pytest.mark.parametrize(
    "changes",
    [
        {"broadcast": "none"},
        {"broadcast": "cb"},
        {"broadcast": "cbs", "broadcast_place": "both"},
        {"broadcast": "cbs", "context": "token"},
    ],
)
@pytest.mark.any_backend
def test_a_model_without_layer_scale_predicts_the_same(changes, save):
    model, path = save(**changes)
    folded = keras_cbvit.ViTCB(weights=path, fold_layer_scale=True)
    assert folded.spec == model.spec.replace(layer_scale=None)
    assert folded.count_params() == model.count_params() - 2 * 2 * 16
    assert_close(predict(folded), predict(model))
    assert np.ptp(predict(model), axis=0).max() > 1e-3


def test_cbs_is_put_on_top_of_either(save):
    model, path = save(broadcast="none")
    for fold in (False, True):
        changed = keras_cbvit.ViTCB(
            weights=path, broadcast="cbs", fold_layer_scale=fold
        )
        assert_close(predict(changed), predict(model))


def test_the_maximum_is_of_positive_factors(save):
    model, path = save(broadcast="cb", context="max")
    with pytest.raises(ValueError, match="negative factors"):
        keras_cbvit.ViTCB(weights=path, fold_layer_scale=True)
    for block in model.blocks:
        for layer in (block.msa_end[-1], block.mlp.end[-1]):
            layer.gamma.assign(keras.ops.abs(layer.gamma))
    model.save(path)
    folded = keras_cbvit.ViTCB(weights=path, fold_layer_scale=True)
    assert_close(predict(folded), predict(model, images(model)))


def test_what_cannot_be_folded_is_refused(save, tmp_path):
    _, path = save(squeeze_excitation=True)
    with pytest.raises(ValueError, match="follows squeeze-and-excitation"):
        keras_cbvit.ViTCB(weights=path, fold_layer_scale=True)
    tiny().save(tmp_path / "plain.keras")
    with pytest.raises(ValueError, match="has no LayerScale; remove fold_layer"):
        keras_cbvit.ViTCB(weights=tmp_path / "plain.keras", fold_layer_scale=True)
    with pytest.raises(ValueError, match="fold_layer_scale"):
        tiny(fold_layer_scale=True)
