"""Vision Transformers of Hugging Face's transformers beside ours with their weights."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from keras_cbvit.pretrained.formats import hugging_face
from tests.peers.beside import assert_same_content, images_for, our_outputs
from tests.tiny import first_on_each_backend

TOLERANCE = 1e-5
WIDE = {"image_size": (32, 48)}
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 80,
    "image_size": 32,
    "patch_size": 16,
}
HALF, ONE = ([0.5] * 3, [0.5] * 3), ([0.0] * 3, [1.0] * 3)
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
OPENAI = (
    [0.48145466, 0.4578275, 0.40821073],
    [0.26862954, 0.26130258, 0.27577711],
)


def build(kind, **options):
    """A model of transformers by the name of its class, with all weights random."""
    model_class = getattr(transformers, kind)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**{**SMALL, **options})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def build_of_texts(kind, text, **options):
    """A model of images and texts, whose config has one of each in it."""
    texts = {**SMALL, "vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1, **text}
    return build(kind, vision_config={**SMALL, **options}, text_config=texts)


def tokens(model, pixels):
    return model(pixels).last_hidden_state


def logits(model, pixels):
    return model(pixels).logits


def unmasked_tokens(model, pixels):
    patches = torch.arange(6.0).expand(len(pixels), -1)  # the noise that orders them
    return model(pixels, noise=patches).last_hidden_state


def normed_tokens(model, pixels):
    """All tokens of CLIP after its last norm, which it takes of one alone."""
    return model.post_layernorm(model(pixels).last_hidden_state)


# By name: the class and its options, what is compared, mean and std where no image
# processor says them, and what is expected of the spec.
CASES = {
    "vit": ("ViTModel", WIDE, tokens, HALF, {"epsilon": 1e-12}),
    "vit without pooler": (
        "ViTModel",
        {"qkv_bias": False, "layer_norm_eps": 1e-3, "hidden_act": "gelu_new"},
        tokens,
        HALF,
        {"qkv_bias": False, "epsilon": 1e-3, "activation": "gelu_tanh"},
    ),
    "vit classifier": (
        "ViTForImageClassification",
        {**WIDE, "num_labels": 5, "hidden_act": "quick_gelu"},
        logits,
        HALF,
        {"classes": 5, "pooling": "token", "activation": "quick_gelu"},
    ),
    "deit": ("DeiTModel", WIDE, tokens, IMAGENET, {"distillation_token": True}),
    "deit classifier": (
        "DeiTForImageClassification",
        {**WIDE, "num_labels": 5},
        logits,
        IMAGENET,
        {"distillation_token": True, "pooling": "token"},
    ),
    "deit distilled": (
        "DeiTForImageClassificationWithTeacher",
        {**WIDE, "num_labels": 5},
        logits,
        IMAGENET,
        {"distillation_token": True, "pooling": "distilled"},
    ),
    "dinov2": (
        "Dinov2Model",
        {"patch_size": 8},
        tokens,
        IMAGENET,
        {"epsilon": 1e-6, "layer_scale": 1.0, "patch_size": 8},
    ),
    "dinov2 giant": (
        "Dinov2Model",
        {"use_swiglu_ffn": True, "mlp_ratio": 3},
        tokens,
        IMAGENET,
        {"activation": "swiglu", "mlp_ratio": 2},
    ),
    "dinov2 classifier": (
        "Dinov2ForImageClassification",
        {"num_labels": 5},
        logits,
        IMAGENET,
        {"pooling": "token_avg"},
    ),
    "dinov2 with registers": (
        "Dinov2WithRegistersModel",
        {"num_register_tokens": 3},
        tokens,
        IMAGENET,
        {"num_register_tokens": 3, "prefix_position_embedding": False},
    ),
    "dinov2 with registers classifier": (
        "Dinov2WithRegistersForImageClassification",
        {"num_register_tokens": 1, "num_labels": 5},
        logits,
        IMAGENET,
        {"num_register_tokens": 1, "pooling": "token_avg"},
    ),
    "mae": ("ViTMAEModel", {**WIDE, "mask_ratio": 0.0}, unmasked_tokens, IMAGENET, {}),
    "msn": ("ViTMSNForImageClassification", WIDE, logits, IMAGENET, {"classes": 2}),
    "clip": (
        "CLIPVisionModel",
        {},
        normed_tokens,
        OPENAI,
        {"pre_norm": True, "activation": "quick_gelu", "epsilon": 1e-5},
    ),
    "clip with projection": (
        "CLIPVisionModelWithProjection",
        {"projection_dim": 24, "hidden_act": "gelu"},
        lambda model, pixels: model(pixels).image_embeds,
        OPENAI,
        {"classes": 24, "classifier_activation": None, "activation": "gelu"},
    ),
    "siglip": (
        "SiglipVisionModel",
        {},
        tokens,
        HALF,
        {"class_token": False, "activation": "gelu_tanh", "pooling": "avg"},
    ),
}


def their_outputs(model, images, mean, std, compare):
    """What a model of transformers gives for images of values 0-255."""
    pixels = (images / 255 - mean) / std
    with torch.no_grad():
        found = compare(model, torch.tensor(pixels.transpose(0, 3, 1, 2)).float())
    return found.numpy()


def files_of(model, folder):
    """The weights and the config in the files of a model."""
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    return load_file(folder / "model.safetensors"), config


@pytest.mark.parametrize("case", first_on_each_backend(CASES))
def test_a_model_and_its_files_give_what_it_gives(case, tmp_path):
    kind, options, compare, (mean, std), expected = CASES[case]
    model = build(kind, **options)
    if case == "vit without pooler":
        model.pooler = None
    content = hugging_face.from_model(model)
    assert {key: getattr(content.spec, key) for key in expected} == expected
    assert content.class_names is None
    images = images_for(content)
    theirs = their_outputs(model, images, mean, std, compare)
    assert theirs.std() > 0.1
    np.testing.assert_allclose(our_outputs(content, images), theirs, atol=TOLERANCE)
    arrays, config = files_of(model, tmp_path)
    assert hugging_face.recognize(arrays)
    assert_same_content(hugging_face.read(arrays, config, "its files"), content)


@pytest.mark.any_backend
def test_images_and_texts_of_clip(tmp_path):
    model = build_of_texts("CLIPModel", {}, patch_size=8)
    content = hugging_face.from_model(model)
    images = images_for(content)

    def features(model, pixels):
        return model.get_image_features(pixels).pooler_output

    theirs = their_outputs(model, images, *OPENAI, features)
    np.testing.assert_allclose(our_outputs(content, images), theirs, atol=TOLERANCE)
    arrays, config = files_of(model, tmp_path)
    del config["vision_config"]["hidden_act"]  # as in files that keep no default
    assert_same_content(hugging_face.read(arrays, config, "its files"), content)


@pytest.mark.any_backend
def test_images_and_texts_of_siglip():
    model = build_of_texts("SiglipModel", {})
    tower = hugging_face.from_model(model.vision_model)
    assert_same_content(hugging_face.from_model(model), tower)


@pytest.mark.any_backend
def test_classifier_of_siglip():
    model = build_of_texts("SiglipForImageClassification", {})
    content = hugging_face.from_model(model)
    images = images_for(content)
    theirs = their_outputs(model, images, *HALF, logits)
    np.testing.assert_allclose(our_outputs(content, images), theirs, atol=TOLERANCE)


@pytest.mark.any_backend
def test_what_belongs_to_pretraining_is_left_out():
    mae = build(
        "ViTMAEForPreTraining",
        decoder_hidden_size=32,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
    )
    assert_same_content(hugging_face.from_model(mae), hugging_face.from_model(mae.vit))
    simmim = build("ViTForMaskedImageModeling")
    assert_same_content(
        hugging_face.from_model(simmim), hugging_face.from_model(simmim.vit)
    )


@pytest.mark.any_backend
def test_the_image_processor_says_how_images_are_normalized():
    model = build("ViTModel")
    arrays, config = model.state_dict(), model.config.to_dict()
    arrays = {name: tensor.numpy() for name, tensor in arrays.items()}
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    for options, expected in (
        ({}, HALF),
        ({"image_mean": mean, "image_std": std}, (mean, std)),
        ({"do_normalize": False}, ([0.0] * 3, [1.0] * 3)),
    ):
        processor = transformers.ViTImageProcessor(**options).to_dict()
        spec = hugging_face.read(arrays, {**config, "preprocessor": processor}, "").spec
        assert (list(spec.mean), list(spec.std)) == expected


@pytest.mark.any_backend
def test_images_of_other_channels_are_taken_as_they_are():
    model = build("ViTModel", num_channels=1)
    content = hugging_face.from_model(model)
    assert not content.spec.include_preprocessing
    images = images_for(content) / 255
    theirs = their_outputs(model, 255 * images, 0, 1, tokens)
    np.testing.assert_allclose(our_outputs(content, images), theirs, atol=TOLERANCE)


@pytest.mark.any_backend
def test_names_of_classes_that_are_words():
    names = {0: "crane", 1: "boat"}
    model = build("ViTForImageClassification", id2label=names)
    assert hugging_face.from_model(model).class_names == ("crane", "boat")
    model = build("ViTForImageClassification", id2label={0: "crane", 1: "crane"})
    assert hugging_face.from_model(model).class_names is None


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "kind",
    ["ViTModel", "DeiTModel", "Dinov2Model", "CLIPVisionModel", "SiglipVisionModel"],
)
def test_without_a_config_the_kind_of_model_tells(kind, tmp_path):
    # Heads of 64 channels, as in all sizes but the largest.
    model = build(kind, hidden_size=128)
    arrays, config = files_of(model, tmp_path)
    found = hugging_face.read(arrays, None, "its file")
    assert_same_content(found, hugging_face.read(arrays, config, "its file"))


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "ViTModel",
            {"hidden_act": "relu"},
            "hidden_act='relu', which is not",
        ),
        ("ViTModel", {"patch_size": (8, 16)}, "patches of 8x16 pixels"),
        ("BeitModel", {}, "the model_type 'beit', which is not supported"),
        ("Data2VecVisionModel", {}, "the model_type 'data2vec-vision'"),
        ("YolosModel", {"image_size": (32, 32)}, "the model_type 'yolos'"),
        (
            "SwinModel",
            {"depths": [1], "num_attention_heads": [2], "window_size": 2},
            "the model_type 'swin'",
        ),
        ("BertModel", {"vocab_size": 20}, "the BertModel is not supported"),
    ],
)
def test_what_our_model_cannot_be_is_refused(kind, options, message):
    model = build(kind, **options)
    with pytest.raises(ValueError, match=message) as raised:
        hugging_face.from_model(model)
    assert len(str(raised.value)) < 300


@pytest.mark.any_backend
def test_a_classifier_of_clip_is_refused():
    model = build_of_texts("CLIPForImageClassification", {})
    with pytest.raises(ValueError, match="without a last norm"):
        hugging_face.from_model(model)
    assert hugging_face.from_model(model.vision_model).spec.classes is None


def without(arrays, part):
    return {name: arrays[name] for name in arrays if part not in name}


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arrays", "config", "message"),
    [
        (lambda found: without(found, ".layer.1."), {}, "weights of 1 blocks, but"),
        (
            lambda found: without(found, "1.layernorm_after"),
            {},
            "no weights for the layer block_1/norm2",
        ),
        (lambda found: {**found, "lambda_1": found["layernorm.bias"]}, {}, "lambda_1"),
        (
            lambda found: {**found, "layernorm.bias": np.full(32, np.nan, "float32")},
            {},
            "for the layer norm that are not finite",
        ),
        (dict, {"image_size": 64}, "positions for 4 patches, not for 4x4"),
        (dict, {"image_size": "large"}, "x: image_size='large' must be a whole number"),
        (dict, {"hidden_size": 64}, "tokens of 32 channels, but its config"),
        (dict, {"num_attention_heads": 5}, "x is not a valid model: num_heads=5"),
    ],
)
def test_what_does_not_go_together_is_refused(arrays, config, message, tmp_path):
    found, whole = files_of(build("ViTModel"), tmp_path)
    with pytest.raises(ValueError, match=message):
        hugging_face.read(arrays(found), {**whole, **config}, "x")


@pytest.mark.any_backend
def test_the_number_of_heads_is_not_guessed():
    arrays = build("ViTModel").state_dict()
    with pytest.raises(ValueError, match="has no config.json"):
        hugging_face.read({name: arrays[name].numpy() for name in arrays}, None, "x")


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "processor, mean, std",
    [
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5] * 3}, (0.1, 0.2, 0.3), 0.5),
        ({"image_mean": 0.25, "image_std": 0.5}, 0.25, 0.5),
        ({"image_mean": None, "image_std": None}, 0.5, 0.5),
        ({"do_normalize": None}, 0.5, 0.5),
        ({"do_normalize": False}, 0, 1),
        # Of values 0-255: (x / 127.5 - 1) / 1, and (x - 127.5) / 51.
        ({"rescale_factor": 1 / 127.5, "image_mean": 1, "image_std": 1}, 0.5, 0.5),
        ({"do_rescale": False, "image_mean": 127.5, "image_std": 51}, 0.5, 0.2),
    ],
)
def test_pixels_are_normalized_as_the_processor_says(processor, mean, std):
    model = build("ViTModel", num_hidden_layers=1)
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    config = {**model.config.to_dict(), "preprocessor": processor}
    spec = hugging_face.read(arrays, config, "x").spec
    np.testing.assert_allclose(spec.mean, np.broadcast_to(mean, 3), atol=1e-8)
    np.testing.assert_allclose(spec.std, np.broadcast_to(std, 3), atol=1e-8)


@pytest.mark.any_backend
def test_registers_may_be_none():
    model = build("Dinov2WithRegistersModel", num_register_tokens=0)
    content = hugging_face.from_model(model)
    assert content.spec.num_register_tokens == 0
    images = images_for(content)
    pixels = (images / 255 - IMAGENET[0]) / IMAGENET[1]
    with torch.no_grad():
        pixels = torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)
        expected = tokens(model, pixels).numpy()
    np.testing.assert_allclose(our_outputs(content, images), expected, atol=TOLERANCE)


@pytest.mark.any_backend
def test_the_heads_of_clip_big_g_are_known_without_its_config():
    wide = {"hidden_size": 1664, "num_attention_heads": 16, "num_hidden_layers": 1}
    model = build("CLIPVisionModel", **wide)
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert hugging_face.read(arrays, None, "x").spec.num_heads == 16
