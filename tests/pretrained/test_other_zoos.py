"""Weights of other zoos become models here, by a path or a handle."""

import warnings

import numpy as np
import pytest
from safetensors.numpy import save, save_file

import keras_cbvit
from tests.pretrained.deit_weights import state_of
from tests.pretrained.hub_server import hub as serve
from tests.tiny import predict

pytestmark = pytest.mark.any_backend

STATE = state_of(64, depth=2, patch_size=4, tokens=10, classes=3)
HEADLESS = {name: STATE[name] for name in STATE if not name.startswith("head")}


@pytest.fixture
def path(tmp_path):
    """A file of a plain ViT for images of 12x12 pixels, with a head of 3 classes."""
    save_file(STATE, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_plain_vit_becomes_one_of_cbs_that_predicts_as_it_does(path):
    plain = keras_cbvit.ViTCB(weights=path, broadcast="none")
    model = keras_cbvit.ViTCB(weights=path)
    assert (plain.spec.broadcast, model.spec.broadcast) == ("none", "cbs")
    assert plain.spec.replace(broadcast="cbs") == model.spec
    assert model.spec.input_shape == (12, 12, 3)
    np.testing.assert_array_equal(predict(model), predict(plain))
    for block in model.blocks:
        block.mlp.end[0].channel_scale.assign(np.ones(64))
    assert np.abs(predict(model) - predict(plain)).max() > 1e-4


@pytest.mark.parametrize("how", ["str", "folder", "handle"])
def test_a_file_a_folder_and_a_handle_give_the_same(how, path, monkeypatch):
    expected = predict(keras_cbvit.ViTCB(weights=path))
    with serve({"owner/name": {"model.safetensors": save(STATE)}}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        weights = {
            "str": str(path),
            "folder": path.parent,
            "handle": "hf://owner/name",
        }[how]
        model = keras_cbvit.ViTCB(weights=weights)
        np.testing.assert_array_equal(predict(model), expected)


def test_load_model_gives_the_model_as_it_is(path):
    model = keras_cbvit.load_model(path)
    assert model.spec == keras_cbvit.ViTCB(weights=path, broadcast="none").spec


@pytest.mark.parametrize("is_ours", [False, True])
def test_cb_in_words_is_refused_with_the_two_ways(is_ours, path):
    if is_ours:
        model, path = keras_cbvit.load_model(path), path.with_name("plain.keras")
        model.save(path)
    message = "are from a plain ViT; with broadcast='cb'"
    with pytest.raises(ValueError, match=message) as error:
        keras_cbvit.ViTCB(weights=path, broadcast="cb")
    for way in ("broadcast='cbs'", "`keras-cbvit train imagenet_anneal`", "--anneal-c"):
        assert way in str(error.value)
    model = keras_cbvit.ViTCB(weights=path, broadcast="cb", allow_other_function=True)
    assert model.spec.broadcast == "cb"


def test_heads_come_and_go(path, tmp_path):
    features = keras_cbvit.ViTCB(weights=path, include_top=False, pooling="token")
    assert predict(features).shape == (4, 64)
    headless = tmp_path / "headless.safetensors"
    save_file(HEADLESS, headless)
    with pytest.raises(ValueError, match=r"has no classification head; pass classes="):
        keras_cbvit.ViTCB(weights=headless)
    assert predict(keras_cbvit.ViTCB(weights=headless, classes=5)).shape == (4, 5)
    backbone = keras_cbvit.ViTCB(weights=headless, include_top=False, pooling="token")
    np.testing.assert_array_equal(predict(backbone), predict(features))


def test_gray_images_of_another_size_and_other_classes(path):
    model = keras_cbvit.ViTCB(weights=path, input_shape=(8, 16, 1), classes=2)
    assert predict(model).shape == (4, 2)


def test_a_size_refuses_weights_of_another(path):
    with pytest.raises(ValueError, match="have hidden_dim=64, not 384"):
        keras_cbvit.ViTCB_S(weights=path)


# What is no Vision Transformer. The names are those of the zoos' own models, which the
# tests of the peers take whole.


@pytest.mark.parametrize(
    "name, kind",
    [
        ("layers.0.blocks.0.attn.relative_position_bias_table", "a Swin Transformer"),
        ("layer1.0.conv1.weight", "a ResNet"),
        ("stages.0.blocks.0.conv_dw.weight", "a ConvNeXt"),
        ("bert.encoder.layer.0.attention.self.query.weight", "a BERT or another"),
    ],
)
def test_weights_of_another_network_are_called_by_its_name(name, kind, tmp_path):
    others = {f"other.{i}.weight": np.zeros(1) for i in range(144)}
    save_file({**others, name: np.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=f"are those of {kind}") as error:
        keras_cbvit.ViTCB(weights=tmp_path / "other.safetensors")
    assert len(str(error.value)) < 300


def test_unknown_names_are_counted_not_listed(tmp_path):
    others = {f"other.{i}.weight": np.zeros(1) for i in range(144)}
    save_file(others, tmp_path / "other.safetensors")
    message = r"match no supported Vision Transformer; the first of 144"
    with pytest.raises(ValueError, match=message) as error:
        keras_cbvit.ViTCB(weights=tmp_path / "other.safetensors")
    assert len(str(error.value)) < 300


def test_an_object_that_is_no_model_is_refused():
    message = "weights=3 must be None, a name, a handle such as 'hf://owner/name', a pa"
    with pytest.raises(ValueError, match=message):
        keras_cbvit.ViTCB(weights=3)


def test_a_live_model_of_this_package(path):
    model = keras_cbvit.ViTCB(weights=path)
    same = keras_cbvit.ViTCB(weights=model)
    assert same.spec == model.spec
    np.testing.assert_array_equal(predict(same), predict(model))
    tuned = keras_cbvit.ViTCB(weights=model, classes=5)
    assert tuned.output_shape == (None, 5)
    keras_cbvit.enable_lora(model, 2)
    with pytest.raises(ValueError, match="has LoRA; pass a model"):
        keras_cbvit.ViTCB(weights=model)


def test_what_is_assumed_of_a_file_without_a_configuration_is_said(path):
    with pytest.warns(UserWarning, match=r"assuming num_heads=1, mean="):
        keras_cbvit.ViTCB(weights=path)
    half = (0.5, 0.5, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = keras_cbvit.ViTCB(weights=path, num_heads=2, mean=half, std=half)
    assert (model.spec.num_heads, model.spec.mean) == (2, half)


def test_the_user_is_not_asked_in_vain(path):
    with pytest.raises(ValueError, match="mean=0.5 must be a sequence with one number"):
        keras_cbvit.ViTCB(weights=path, mean=0.5)
