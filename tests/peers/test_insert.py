"""CB in models of KerasHub and kimm, in their smallest form with random weights."""

import subprocess
import sys

import keras
import keras_hub
import kimm
import numpy as np
import pytest

import keras_cbvit
from tests.tiny import first_on_each_backend

SIZES = {"image_shape": (32, 32, 3), "patch_size": 16, "num_layers": 2}
SIZES |= {"num_heads": 2, "hidden_dim": 8}
LOAD = """
import sys
import keras, keras_cbvit, kimm, numpy as np
folder = sys.argv[1]
images = np.load(folder + "/images.npy")
for name in ("hub", "kimm"):
    model = keras.models.load_model(f"{folder}/{name}.keras")
    np.save(f"{folder}/{name}.npy", model.predict_on_batch(images))
"""


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")


def vit():
    return keras_hub.models.ViTBackbone(**SIZES, mlp_dim=16)


def deit():
    return keras_hub.models.DeiTBackbone(**SIZES, intermediate_dim=16)


def kimm_graph():
    """kimm's ViT as a plain functional model: Keras finds the class in no file."""
    model = kimm.models.VisionTransformerTiny16(
        input_shape=(32, 32, 3), classes=3, weights=None
    )
    return keras.Model(model.input, model.output)


def hub_classifier():
    return keras_hub.models.ViTImageClassifier(backbone=vit(), num_classes=3)


MODELS = {
    "KerasHub's ViT": (vit, "*/mlp", 2),
    "KerasHub's ViT, classifier": (hub_classifier, "*/mlp", 2),
    "KerasHub's DeiT, classifier": (
        lambda: keras_hub.models.DeiTImageClassifier(backbone=deit(), num_classes=3),
        "*/output_layer/output",
        2,
    ),
    "kimm's ViT": (kimm_graph, "blocks_*_mlp_fc2", 12),
}


@pytest.mark.parametrize("case", first_on_each_backend(MODELS))
def test_predicts_the_same_trains_and_is_loaded(case, images, tmp_path):
    make, after, count = MODELS[case]
    model = make()
    expected = model.predict_on_batch(images)
    copy = keras_cbvit.insert_context_broadcast(model, after)
    np.testing.assert_allclose(copy.predict_on_batch(images), expected, atol=1e-6)
    scales = keras_cbvit.analysis.channel_scales(copy)
    assert len(scales) == count
    assert not any(scale.any() for scale in scales.values())

    copy.compile("adam", "mse")
    copy.fit(images, np.zeros_like(expected), verbose=0)
    scales = keras_cbvit.analysis.channel_scales(copy)
    assert all(scale.any() for scale in scales.values())
    np.testing.assert_array_equal(model.predict_on_batch(images), expected)

    trained = copy.predict_on_batch(images)
    assert np.abs(trained - expected).max() > 1e-6
    copy.save(tmp_path / "copy.keras")
    loaded = keras.models.load_model(tmp_path / "copy.keras")
    np.testing.assert_allclose(loaded.predict_on_batch(images), trained, atol=1e-6)


@pytest.mark.any_backend
def test_a_program_that_imports_the_packages_loads_files(images, tmp_path):
    models = {"hub": (hub_classifier(), "*/mlp"), "kimm": (kimm_graph(), "*_mlp_fc2")}
    for name, (model, after) in models.items():
        copy = keras_cbvit.insert_context_broadcast(model, after)
        copy.save(tmp_path / f"{name}.keras")
    np.save(tmp_path / "images.npy", images)
    subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], check=True)
    for name, (model, _) in models.items():
        found = np.load(tmp_path / f"{name}.npy")
        expected = model.predict_on_batch(images)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.any_backend
def test_a_class_that_is_not_registered_is_named_for_loading(images, tmp_path):
    kind = kimm.models.VisionTransformerTiny16
    model = kind(input_shape=(32, 32, 3), classes=3, weights=None)
    copy = keras_cbvit.insert_context_broadcast(model, "blocks_*_mlp_fc2")
    copy.save(tmp_path / "copy.keras")
    classes = {kind.__name__: kind}
    loaded = keras.models.load_model(tmp_path / "copy.keras", custom_objects=classes)
    np.testing.assert_array_equal(
        loaded.predict_on_batch(images), model.predict_on_batch(images)
    )
