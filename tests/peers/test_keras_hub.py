"""Vision Transformers of KerasHub beside ours with their weights."""

import json

import keras
import keras_hub
import numpy as np
import pytest

from keras_cbvit.pretrained.formats import keras_hub as keras_hub_format
from tests.peers.beside import assert_same_content, images_for, our_outputs
from tests.tiny import first_on_each_backend

TOLERANCE = 1e-5
SMALL = {
    "image_shape": (32, 48, 3),
    "patch_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 32,
}
HALF, IMAGENET = (0.5, 0.5), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def build(kind, classifier=None, **options):
    """A model of KerasHub by the name of its class, with all weights random."""
    mlp = {"mlp_dim" if kind == "ViTBackbone" else "intermediate_dim": 80}
    model = getattr(keras_hub.models, kind)(**{**SMALL, **mlp, **options})
    if classifier is not None:
        name, arguments = classifier
        model = getattr(keras_hub.models, name)(model, num_classes=5, **arguments)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        noise = rng.normal(0, 0.2, weight.shape)
        weight.assign(keras.ops.convert_to_numpy(weight) + noise)
    return model


# By name: the class and its options, the class and the options of its classifier, mean
# and std where no image converter says them, and what is expected of the spec.
CASES = {
    "vit": ("ViTBackbone", {"layer_norm_epsilon": 1e-4}, None, HALF, {"epsilon": 1e-4}),
    "vit without biases": (
        "ViTBackbone",
        {"use_mha_bias": False, "use_mlp_bias": False, "use_patch_bias": False},
        None,
        HALF,
        {"qkv_bias": False},
    ),
    "vit classifier": (
        "ViTBackbone",
        {},
        ("ViTImageClassifier", {}),
        HALF,
        {"classes": 5, "pooling": "token"},
    ),
    "vit classifier without class token": (
        "ViTBackbone",
        {"use_class_token": False},
        ("ViTImageClassifier", {"pooling": "gap"}),
        HALF,
        {"class_token": False, "pooling": "avg"},
    ),
    "deit": ("DeiTBackbone", {}, None, IMAGENET, {"distillation_token": True}),
    "deit classifier": (
        "DeiTBackbone",
        {},
        ("DeiTImageClassifier", {}),
        IMAGENET,
        {"distillation_token": True, "pooling": "token"},
    ),
    "dinov2": (
        "DINOV2Backbone",
        {"image_shape": (32, 32, 3), "position_embedding_shape": (32, 32, 3)},
        None,
        IMAGENET,
        {"layer_scale": 1.0, "epsilon": 1e-6},
    ),
    "dinov2 giant with registers, for images of another size": (
        "DINOV2Backbone",
        {
            "image_shape": (48, 48, 3),
            "position_embedding_shape": (64, 64, 3),
            "num_register_tokens": 3,
            "use_swiglu_ffn": True,
            "use_mask_token": False,
            "name": "tower",
        },
        None,
        IMAGENET,
        {"num_register_tokens": 3, "activation": "swiglu", "mlp_ratio": 1.75},
    ),
}


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("case", first_on_each_backend(CASES))
def test_a_model_and_its_folder_give_what_it_gives(case, tmp_path):
    kind, options, classifier, (mean, std), expected = CASES[case]
    model = build(kind, classifier, **options)
    content = keras_hub_format.from_model(model)
    assert {key: getattr(content.spec, key) for key in expected} == expected
    images = images_for(content)
    pixels = ((images / 255 - mean) / std).astype("float32")
    theirs = numpy(model({"images": pixels} if kind == "DINOV2Backbone" else pixels))
    assert theirs.std() > 0.1
    np.testing.assert_allclose(our_outputs(content, images), theirs, atol=TOLERANCE)
    model.save_to_preset(str(tmp_path))
    assert keras_hub_format.recognize_folder(tmp_path)
    assert_same_content(keras_hub_format.read_folder(tmp_path), content)


@pytest.mark.any_backend
def test_the_image_converter_says_how_images_are_normalized(tmp_path):
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.5, 0.6])
    converter = keras_hub.layers.ViTImageConverter(
        scale=list(1 / (255 * std)), offset=list(-mean / std)
    )
    preprocessor = keras_hub.models.ViTImageClassifierPreprocessor(converter)
    model = build("ViTBackbone", ("ViTImageClassifier", {"preprocessor": preprocessor}))
    content = keras_hub_format.from_model(model)
    np.testing.assert_allclose([content.spec.mean, content.spec.std], [mean, std])
    images = images_for(content)
    theirs = numpy(model(converter(images)))
    np.testing.assert_allclose(our_outputs(content, images), theirs, atol=TOLERANCE)
    model.save_to_preset(str(tmp_path))
    assert_same_content(keras_hub_format.read_folder(tmp_path), content)
    (tmp_path / "image_converter.json").write_text(
        json.dumps({"class_name": "ImageConverter", "config": {"scale": 1 / 255}})
    )
    spec = keras_hub_format.read_folder(tmp_path).spec
    assert (spec.mean, spec.std) == ((0, 0, 0), (1, 1, 1))


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        ({"pooling": "gap"}, "classifies with pooling='gap'"),
        ({"intermediate_dim": 8}, "has pre_logits, which is not a layer"),
    ],
)
def test_a_classifier_that_our_model_cannot_be_is_refused(classifier, message):
    model = build("ViTBackbone", ("ViTImageClassifier", classifier))
    with pytest.raises(ValueError, match=f"the ViTImageClassifier {message}"):
        keras_hub_format.from_model(model)


@pytest.mark.any_backend
def test_other_models_are_refused():
    model = keras_hub.models.VGGBackbone([1], [2], image_shape=(32, 32, 3))
    with pytest.raises(ValueError, match="VGGBackbone, which is not supported"):
        keras_hub_format.from_model(model)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b'{"class_name": "ViTBackbone", "config": {}}'),
        ("task.json", b"{}"),
        ("model.weights.h5", b"no HDF5"),
    ],
)
def test_a_damaged_folder_is_refused(file, content, tmp_path):
    model = build("ViTBackbone", ("ViTImageClassifier", {}))
    model.save_to_preset(str(tmp_path))
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged or not a weights file"):
        keras_hub_format.read_folder(tmp_path)
