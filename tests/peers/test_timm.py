"""Vision Transformers of timm beside ours with their weights, there and back."""

import json

import numpy as np
import pytest
import timm as timm_package
import torch
from safetensors.numpy import load_file

import keras_cbvit
from keras_cbvit.export import save_for_timm, to_timm
from keras_cbvit.models.vision_transformer import VisionTransformer
from keras_cbvit.pretrained import loading
from keras_cbvit.pretrained.formats import timm
from tests.compare import assert_close

SMALL = {"depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": 5}
# timm's entry points, with their own flags, and what is asked of them beside.
KINDS = {
    "deit": ("deit_tiny_patch16_224", {}),
    "augreg": ("vit_tiny_patch16_224.augreg_in21k", {"num_classes": 7}),
    "augreg 384": ("vit_small_patch32_384", {}),
    "dino": ("vit_small_patch8_224.dino", {"num_classes": 0}),
    "tokens": ("vit_base_patch16_224.mae", {"num_classes": 0, "global_pool": ""}),
    "not square": ("vit_small_patch16_224", {"img_size": (32, 48)}),
    "gray": ("vit_tiny_patch16_224", {"in_chans": 1}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "distilled features": ("deit_tiny_distilled_patch16_224", {"num_classes": 0}),
    "deit3": ("deit3_small_patch16_224", {}),
    "no qkv bias": ("vit_base_patch16_224_miil", {}),
    "no class token": ("vit_medium_patch16_gap_240", {}),
    "fc_norm": ("eva_large_patch14_196", {}),
    "clip": ("vit_base_patch16_clip_224.openai", {}),
    "quick gelu": ("vit_base_patch32_clip_quickgelu_224.openai", {}),
    "dinov2": ("vit_small_patch14_dinov2", {}),
    "registers": ("vit_small_patch14_reg4_dinov2", {}),
    "swiglu": ("vit_giant_patch14_reg4_dinov2", {}),
    "registers alone": ("vit_medium_patch16_reg4_gap_256", {}),
    "positions of registers": ("vit_so150m_patch16_reg4_gap_256", {}),
    "qk norm": ("vit_base_patch16_224", {"qk_norm": True}),
    "gelu tanh": ("vit_base_patch32_siglip_gap_256", {}),
}


def build(name, **options):
    """A small model of timm, with all weights random."""
    patch_size = int(name.partition("patch")[2].partition("_")[0])
    sizes = {"img_size": (2 * patch_size, 2 * patch_size)}
    torch.manual_seed(0)
    model = timm_package.create_model(name, **{**SMALL, **sizes, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def ours(content, **given):
    """Our model with the weights, which gives logits."""
    spec = loading.merge(content, {"classifier_activation": None, **given})
    model = VisionTransformer(spec)
    loading.assign(model, content)
    return model


def images(shape):
    return np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype("float32")


@torch.no_grad()
def predict(model, pixels, mean, std):
    """What a model of timm predicts of images of values 0–255."""
    x = (pixels / 255 - np.asarray(mean)) / np.asarray(std)
    return model(torch.from_numpy(x.transpose(0, 3, 1, 2).astype("float32"))).numpy()


def preprocessing(model, channels):
    """The mean and the standard deviation that timm feeds a model with."""
    data = timm_package.data.resolve_model_data_config(model)
    return [data[key][:channels] for key in ("mean", "std")]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    """A model of timm, our images and what it predicts of them, and its content."""
    name, options = KINDS[request.param]
    model = build(name, **options)
    content = timm.from_model(model)
    x = images(content.spec.input_shape)
    expected = predict(model, x, content.spec.mean, content.spec.std)
    return model, content, x, expected


def test_a_live_model_gives_timms_predictions(kind):
    _, content, x, expected = kind
    assert_close(ours(content)(x), expected, atol=1e-5)


def test_the_files_of_the_hub_say_what_the_live_model_says(kind, tmp_path):
    model, content, _, _ = kind
    timm_package.models.save_for_hf(model, tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    found = timm.read(load_file(tmp_path / "model.safetensors"), config, "x")
    init_values = config["model_args"].get("init_values", content.spec.layer_scale)
    assert found.spec.replace(layer_scale=init_values) == content.spec
    assert found.weights.keys() == content.weights.keys()
    for path, arrays in content.weights.items():
        for array, other in zip(arrays, found.weights[path], strict=True):
            np.testing.assert_array_equal(array, other)


def test_timm_loads_what_is_written_for_it(kind, tmp_path):
    _, content, x, expected = kind
    save_for_timm(ours(content), tmp_path / "vit")
    back = timm_package.create_model(f"local-dir:{tmp_path}/vit", pretrained=True).eval()
    mean, std = preprocessing(back, x.shape[-1])
    np.testing.assert_allclose(predict(back, x, mean, std), expected, atol=1e-5)
