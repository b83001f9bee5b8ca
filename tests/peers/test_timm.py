"""Vision Transformers of timm beside ours with their weights, there and back."""

import json

import numpy as np
import pytest
import timm as timm_package
import torch
from safetensors.numpy import load_file

from keras_cbvit.export import save_for_timm, to_timm
from keras_cbvit.models.vision_transformer import VisionTransformer
from keras_cbvit.pretrained import loading
from keras_cbvit.pretrained.formats import timm
from tests.compare import assert_close
from tests.tiny import fill, first_on_each_backend, tiny

ANY_BACKEND = pytest.mark.any_backend

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


@pytest.mark.parametrize(
    "kind", first_on_each_backend(["registers", "deit", "clip", "distilled features"])
)
def test_features_are_those_of_forward_intermediates(kind):
    name, options = KINDS[kind]
    model = build(name, **options)
    content = timm.from_model(model)
    network = ours(content)
    mean, std = preprocessing(model, 3)
    x = images(network.input_shape[1:])
    pixels = ((x / 255 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    for norm in (False, True):
        with torch.no_grad():
            expected = model.forward_intermediates(
                torch.from_numpy(pixels.astype("float32")),
                indices=[0, 1],
                norm=norm,
                intermediates_only=True,
            )
        found = network.features(x, blocks=(0, 1), norm=norm)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other.numpy().transpose(0, 2, 3, 1), atol=1e-4)


def preprocessing(model, channels):
    """The mean and the standard deviation that timm feeds a model with."""
    data = timm_package.data.resolve_model_data_config(model)
    found = data["mean"], data["std"]
    # For one channel timm has the numbers of three.
    return found if channels == 3 else [np.mean(values) for values in found]


# What these have beside deit's parts, each backend computes; the others read weights.
ON_EACH_BACKEND = ("deit", "clip", "swiglu", "qk norm")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(kind, marks=[] if kind in ON_EACH_BACKEND else ANY_BACKEND)
        for kind in KINDS
    ],
)
def kind(request):
    """A model of timm, our images and what it predicts of them, and its content."""
    name, options = KINDS[request.param]
    model = build(name, **options)
    content = timm.from_model(model)
    x = images(content.spec.input_shape)
    expected = predict(model, x, *preprocessing(model, x.shape[-1]))
    return model, content, x, expected


def test_a_live_model_gives_timms_predictions(kind):
    _, content, x, expected = kind
    assert_close(ours(content)(x), expected, atol=1e-5)


@pytest.mark.any_backend
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


@pytest.mark.any_backend
def test_timm_loads_what_is_written_for_it(kind, tmp_path):
    _, content, x, expected = kind
    save_for_timm(ours(content), tmp_path / "vit")
    back = timm_package.create_model(
        f"local-dir:{tmp_path}/vit", pretrained=True
    ).eval()
    found = predict(back, x, *preprocessing(back, x.shape[-1]))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.any_backend
def test_weights_alone_say_nearly_all(kind):
    """The rest is what the user gives."""
    model, content, _, _ = kind
    spec, weights = content.spec, model.state_dict()
    given = {"num_heads": 2, "mean": spec.mean, "std": spec.std}
    given |= {"activation": spec.activation, "input_shape": spec.input_shape}
    found = timm.read(weights, None, "x", given).spec
    usual = {"pooling": found.pooling, "layer_scale": found.layer_scale}
    assert found == spec.replace(**usual)
    assert found.pooling == spec.pooling or spec.pooling is None


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "vit_huge_patch14_224",
        "vit_giant_patch14_224",
        "vit_gigantic_patch14_clip_quickgelu_224",
        "vit_base_patch16_gap_224",
        "vit_so400m_patch14_siglip_gap_224",
        "vit_giantopt_patch16_siglip_gap_256",
        "vit_giant_patch14_dinov2",
        "vit_little_patch16_reg4_gap_256",
        "test_vit2",
    ],
)
@pytest.mark.any_backend
def test_the_name_of_an_architecture_says_what_no_shape_does(name):
    model = timm_package.create_model(name, depth=1, weight_init="skip")
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    config = {"architecture": name, "pretrained_cfg": model.pretrained_cfg}
    live = timm.from_model(model).spec
    found = timm.read(model.state_dict(), config, "x").spec
    assert found.replace(layer_scale=live.layer_scale) == live


@pytest.mark.parametrize(
    "name, options, what",
    [
        ("beit_base_patch16_224", {}, "is a Beit, not a plain"),
        ("eva02_tiny_patch14_224", {}, "is a Eva, not a plain"),
        ("vit_small_patch16_rope_ape_224", {}, "is a Eva, not a plain"),
        ("vit_small_patch16_18x2_224", {}, "parallel attentions and MLPs"),
        ("vit_pwee_patch16_reg1_gap_256", {}, "an MLP in parallel"),
        ("vit_dwee_patch16_reg1_gap_256", {}, "differential attention"),
        ("vit_base_patch16_rpn_224", {}, "blocks of the class ResPostBlock"),
        ("vit_tiny_patch16_224", {"norm_layer": "rmsnorm"}, "RMSNorm"),
        ("vit_tiny_patch16_224", {"act_layer": "relu"}, "the activation ReLU"),
        ("vit_tiny_patch16_224", {"global_pool": "max"}, "the pooling max"),
        ("vit_tiny_patch16_224", {"final_norm": False}, "no norm after the last"),
        ("vit_tiny_patch16_224", {"pos_embed": "none"}, "no learned position"),
        ("vit_tiny_patch16_224", {"scale_mlp_norm": True}, "norms within"),
    ],
)
@pytest.mark.any_backend
def test_another_network_is_named(name, options, what):
    model = build(name, **options)
    with pytest.raises(ValueError, match=what) as error:
        timm.from_model(model)
    assert name in str(error.value) and len(str(error.value)) < 200
    arguments = {"num_heads": 2, **options}
    config = {"architecture": name, "pretrained_cfg": {}, "model_args": arguments}
    with pytest.raises(ValueError, match="which VisionTransformer does not support"):
        timm.read(model.state_dict(), config, "x")


@pytest.mark.any_backend
def test_siglip_is_read_without_its_attention_pooling():
    model = build("vit_base_patch32_siglip_256")
    content = timm.from_model(model)
    assert content.spec.activation == "gelu_tanh" and content.spec.classes is None
    x = images(content.spec.input_shape)
    features = torch.nn.Sequential()  # the tokens after the last norm
    features.forward = model.forward_features
    expected = predict(features, x, *preprocessing(model, 3))
    assert_close(ours(content, pooling=None)(x), expected, atol=1e-5)


@pytest.mark.any_backend
def test_the_files_of_dinov2_have_positions_of_the_class_token():
    model = build("vit_small_patch14_reg4_dinov2", init_values=1e-5)
    state = {name: array.numpy() for name, array in model.state_dict().items()}
    rng = np.random.default_rng(0)
    position = rng.normal(size=(1, 1, 32)).astype("float32")
    original = {
        **{
            name.replace("reg_token", "register_tokens"): x for name, x in state.items()
        },
        "cls_token": state["cls_token"] - position,
        "pos_embed": np.concatenate([position, state["pos_embed"]], axis=1),
        "mask_token": rng.normal(size=(1, 32)),
    }
    given = {"num_heads": 2}
    content = timm.read(original, None, "x", given)
    assert content.spec == timm.read(state, None, "x", given).spec
    x = images(content.spec.input_shape)
    expected = predict(model, x, *preprocessing(model, 3))
    assert_close(ours(content)(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    "changes, what",
    [
        ({"broadcast": "cb"}, "Context Broadcasting, which timm does not support"),
        ({"squeeze_excitation": True}, "squeeze_excitation=True"),
        ({"epsilon": 1e-3}, "epsilon=0.001"),
        ({"pooling": "token_avg"}, "pooling='token_avg'"),
        ({"distillation_token": True}, "a distillation token with pooling='token'"),
    ],
)
@pytest.mark.any_backend
def test_what_timm_does_not_have_is_not_written(changes, what, tmp_path):
    model = tiny(**{"broadcast": "none", **changes})
    with pytest.raises(ValueError, match=what):
        save_for_timm(model, tmp_path / "vit")
    assert not list(tmp_path.iterdir())


@pytest.mark.any_backend
def test_cbs_is_written_where_it_is_plain(tmp_path):
    plain, cbs = tiny(broadcast="none"), tiny(broadcast="cbs")
    for name, weight in plain.weights_by_name().items():
        cbs.weights_by_name()[name].assign(weight)
    (expected, config), (found, other) = to_timm(plain), to_timm(cbs)
    assert config == other and found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    cbs.blocks[1].mlp.end[0].channel_scale.assign(np.eye(16)[3])
    with pytest.raises(
        ValueError, match="block_1/mlp/context_broadcast/scale is not 0"
    ):
        to_timm(cbs)


@pytest.mark.any_backend
def test_the_bias_of_patches_goes_into_their_positions():
    """timm's CLIP has none, but a model of ours that is trained further has one."""
    model = fill(tiny(broadcast="none", pre_norm=True, epsilon=1e-5))
    state, config = to_timm(model)
    other = timm_package.create_model(
        config["architecture"], **{**config["model_args"]}
    ).eval()
    other.load_state_dict(
        {k: torch.from_numpy(v) for k, v in state.items()}, strict=True
    )
    x = images(model.input_shape[1:])
    logits = predict(other, x, model.spec.mean, model.spec.std)
    expected = torch.softmax(torch.from_numpy(logits), -1).numpy()
    assert_close(model(x), expected, atol=1e-5)


@pytest.mark.any_backend
def test_a_folder_with_something_in_it_is_kept(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="exists; use a folder that does not"):
        save_for_timm(tiny(broadcast="none"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.any_backend
def test_a_model_that_create_model_has_not_built():
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "num_heads": 2}
    model = timm_package.models.VisionTransformer(**sizes, depth=2, num_classes=5)
    spec = timm.from_model(model).spec
    assert (spec.grid, spec.num_heads, spec.classes) == ((2, 2), 2, 5)


@pytest.mark.any_backend
def test_what_timm_s_distilled_class_has_not_is_refused():
    model = tiny(
        broadcast="none",
        distillation_token=True,
        pooling="distilled",
        prefix_position_embedding=False,
    )
    with pytest.raises(ValueError, match="token without a position embedding, which"):
        to_timm(model)
