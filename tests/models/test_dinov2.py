"""A ViT like DINOv2 against PyTorch and timm in float64 (tests/make_vit_oracle.py)."""

from pathlib import Path

import keras
import numpy as np
import pytest

import keras_cbvit
from tests.compare import assert_close, to_numpy
from tests.gradients import gradients

FILE = Path(__file__).parents[1] / "data" / "vit_dinov2.npz"
ARGUMENTS = {
    "input_shape": (14, 21, 3),
    "patch_size": 7,
    "hidden_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "num_register_tokens": 4,
    "layer_scale": 1e-5,
    "epsilon": 1e-3,
    "mean": (0.5, 0.4, 0.3),
    "std": (0.5, 0.25, 0.2),
    "classes": 5,
    "classifier_activation": None,
    "broadcast": "none",
}


class Case:
    """timm's numbers, and our model with its weights."""

    def __init__(self, name, arrays):
        self.found = {
            key.removeprefix(f"{name}/"): array
            for key, array in arrays.items()
            if key.startswith(f"{name}/")
        }
        self.state = {
            key.removeprefix("weight/"): array
            for key, array in self.found.items()
            if key.startswith("weight/")
        }
        self.arguments = {
            **ARGUMENTS,
            "prefix_position_embedding": name == "with",
        }

    def model(self, **changes):
        arguments = {**self.arguments, **changes}
        return keras_cbvit.ViTCB(
            weights=self.state, allow_other_function=True, **arguments
        )


@pytest.fixture(scope="module")
def arrays():
    with np.load(FILE) as found:
        return dict(found)


@pytest.fixture(scope="module", params=["with", "without"])
def case(request, arrays):
    """Whether the prefix tokens have position embeddings."""
    return Case(request.param, arrays)


def test_logits_are_timms(case, arrays):
    assert_close(case.model()(arrays["images"]), case.found["logits"], atol=1e-5)


def test_tokens_are_timms_after_every_block_and_the_norm(case, arrays):
    model = case.model()
    outputs = [block.output for block in model.blocks]
    outputs.append(model.get_layer("norm").output)
    *blocks, features = keras.Model(model.input, outputs)(arrays["images"])
    for found, expected in zip(blocks, case.found["blocks"], strict=True):
        assert found.shape == (2, 1 + 4 + 2 * 3, 24)
        assert_close(found, expected, atol=1e-5)
    assert_close(features, case.found["features"], atol=1e-5)


def test_gradients_are_timms(case, arrays):
    model = case.model()
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def loss():
        return cross_entropy(arrays["labels"], model(arrays["images"]))

    tokens = model.get_layer("token_embedding")
    weights = {
        "reg_token": tokens.register_tokens,
        "pos_embed": tokens.position_embedding,
        "ls1.gamma": model.blocks[0].msa_end[0].gamma,
    }
    assert_close(loss(), case.found["loss"], atol=1e-5)
    _, found = gradients(loss, variables=list(weights.values()))
    for name, gradient in zip(weights, found, strict=True):
        expected = case.found[f"gradient/{name}"]
        assert_close(gradient, expected, atol=1e-5)
        assert np.abs(expected).max() > 1e-3


def test_images_of_another_size_are_timms(case, arrays, tmp_path):
    any_size = case.model(input_shape=(None, None, 3), position_grid=(2, 3))
    x, expected = arrays["other_images"], case.found["other_logits"]
    assert_close(any_size.predict(x, verbose=0), expected, atol=1e-5)
    case.model().save(tmp_path / "model.keras")
    resampled = keras_cbvit.ViTCB(
        weights=tmp_path / "model.keras",
        input_shape=x.shape[1:],
        classifier_activation=None,
    )
    assert_close(resampled(x), expected, atol=1e-5)


def test_cb_is_before_layer_scale(case, arrays):
    logits = case.model(broadcast="cb")(arrays["images"])
    assert_close(logits, case.found["cb_logits"], atol=1e-5)
    assert np.abs(case.found["cb_logits"] - case.found["logits"]).max() > 1e-2


def test_the_mean_of_the_patches_leaves_the_prefix_tokens_out(case, arrays):
    patches = case.found["features"][:, 5:].mean(axis=1)
    kernel, bias = case.state["head.weight"].T, case.state["head.bias"]
    logits = case.model(pooling="avg")(arrays["images"])
    assert_close(logits, patches @ kernel + bias, atol=1e-5)


def test_the_maps_of_a_pyramid_leave_the_prefix_tokens_out(case, arrays):
    model = case.model()
    maps = keras.Model(model.input, model.pyramid_outputs([0, 1]))(arrays["images"])
    for found, tokens in zip(maps, case.found["blocks"], strict=True):
        assert_close(found, tokens[:, 5:].reshape(2, 2, 3, 24), atol=1e-5)


def test_features(case, arrays):
    model, images = case.model(), arrays["images"]
    blocks, features = case.found["blocks"], case.found["features"]
    for found, tokens in zip(model.features(images), blocks, strict=True):
        assert_close(found, tokens[:, 5:].reshape(2, 2, 3, 24), atol=1e-5)
    (found,) = model.features(images, blocks=[0], reshape=False)
    assert_close(found, blocks[0], atol=1e-5)
    (found,) = model.features(images, blocks=[1], norm=True, reshape=False)
    assert_close(found, features, atol=1e-5)
    found = model.feature_model([1], norm=True).predict(images, verbose=0)
    assert_close(found, features[:, 5:].reshape(2, 2, 3, 24), atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 1e-6},
        {"mean": (0.485, 0.456, 0.406)},
        {"std": (0.229, 0.224, 0.225)},
    ],
)
def test_every_number_of_the_spec_counts(change, case, arrays):
    logits = to_numpy(case.model(**change)(arrays["images"]))
    assert np.abs(logits - case.found["logits"]).max() > 1e-4


def test_a_cbs_model_starts_as_this_one(case, arrays):
    logits = case.model(broadcast="cbs")(arrays["images"])
    assert_close(logits, case.found["logits"], atol=1e-5)
