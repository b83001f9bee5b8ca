"""CB in models of KerasHub and kimm, in their smallest form with random weights."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import keras_cbvit

hub = pytest.importorskip("keras_hub").models
kimm = pytest.importorskip("kimm")

SIZES = {"image_shape": (32, 32, 3), "patch_size": 16, "num_layers": 2}
SIZES |= {"num_heads": 2, "hidden_dim": 8}
LOAD = """
import sys
import keras, keras_cbvit, numpy as np
{imports}
folder = sys.argv[1]
model = keras.models.load_model(folder + "/copy.keras")
images = np.load(folder + "/images.npy")
np.save(folder + "/found.npy", model.predict(images, verbose=0))
"""


def vit():
    return hub.ViTBackbone(**SIZES, mlp_dim=16)


def deit():
    return hub.DeiTBackbone(**SIZES, intermediate_dim=16)


def kimm_graph():
    """kimm's ViT as a plain functional model: Keras finds the class in no file."""
    model = kimm.models.VisionTransformerTiny16(
        input_shape=(32, 32, 3), classes=3, weights=None
    )
    return keras.Model(model.input, model.output)


MODELS = {
    "KerasHub's ViT": (vit, "*/mlp", 2, ""),
    "KerasHub's ViT, classifier": (
        lambda: hub.ViTImageClassifier(backbone=vit(), num_classes=3),
        "*/mlp",
        2,
        "",
    ),
    "KerasHub's DeiT": (deit, "*/output_layer/output", 2, ""),
    "KerasHub's DeiT, classifier": (
        lambda: hub.DeiTImageClassifier(backbone=deit(), num_classes=3),
        "*/output_layer/output",
        2,
        "",
    ),
    "kimm's ViT": (kimm_graph, "blocks_*_mlp_fc2", 12, "import kimm"),
}


@pytest.mark.parametrize("case", MODELS)
def test_predicts_the_same_trains_and_is_loaded(case, tmp_path):
    make, after, count, imports = MODELS[case]
    model = make()
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    expected = model.predict_on_batch(images)
    copy = keras_cbvit.insert_context_broadcast(model, after)
    np.testing.assert_allclose(copy.predict_on_batch(images), expected, atol=1e-6)
    scales = keras_cbvit.analysis.channel_scales(copy)
    assert len(scales) == count
    assert all(not scale.any() for scale in scales.values())

    copy.compile("adam", "mse")
    copy.fit(images, ops.zeros_like(expected), verbose=0)
    scales = keras_cbvit.analysis.channel_scales(copy)
    assert all(scale.any() for scale in scales.values())
    np.testing.assert_array_equal(model.predict_on_batch(images), expected)

    trained = copy.predict_on_batch(images)
    assert np.abs(trained - expected).max() > 1e-6
    copy.save(tmp_path / "copy.keras")
    np.save(tmp_path / "images.npy", images)
    program = LOAD.format(imports=imports)
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, trained, atol=1e-5)


def test_a_class_that_is_not_registered_is_named_when_it_is_loaded(tmp_path):
    kind = kimm.models.VisionTransformerTiny16
    model = kind(input_shape=(32, 32, 3), classes=3, weights=None)
    copy = keras_cbvit.insert_context_broadcast(model, "blocks_*_mlp_fc2")
    copy.save(tmp_path / "copy.keras")
    classes = {kind.__name__: kind}
    loaded = keras.models.load_model(tmp_path / "copy.keras", custom_objects=classes)
    images = np.ones((1, 32, 32, 3), "float32")
    np.testing.assert_array_equal(
        loaded.predict_on_batch(images), model.predict_on_batch(images)
    )
