import dataclasses
import inspect
import json
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_cbvit
from keras_cbvit.models import registry
from keras_cbvit.models.registry import SIZES as SIZES_OF_THE_PACKAGE
from tests.compare import assert_close
from tests.tiny import TINY, assert_same_values, fill, images, predict, tiny, values

SIZES = json.loads((Path(__file__).parent / "data" / "sizes.json").read_text())
BUILDERS = [
    keras_cbvit.ViTCB,
    keras_cbvit.ViTCB_Ti,
    keras_cbvit.ViTCB_S,
    keras_cbvit.ViTCB_B,
]


@pytest.mark.parametrize(
    "builder, size, numbers",
    [
        (keras_cbvit.ViTCB_Ti, "Ti", (192, 12, 3, 4)),
        (keras_cbvit.ViTCB_S, "S", (384, 12, 6, 4)),
        (keras_cbvit.ViTCB_B, "B", (768, 12, 12, 4)),
    ],
)
@pytest.mark.any_backend
def test_sizes_have_the_numbers_and_parameters_of_the_paper(builder, size, numbers):
    model = builder(broadcast="cbs")
    names = ("hidden_dim", "depth", "num_heads", "mlp_ratio")
    assert tuple(getattr(model.spec, name) for name in names) == numbers
    scales = [weight for weight in model.weights if weight.path.endswith("/scale")]
    assert len(scales) == 12
    extra = sum(weight.shape[0] for weight in scales)
    assert extra == SIZES[size]["cbs_extra_params"]
    assert model.count_params() - extra == SIZES[size]["params"]


@pytest.fixture
def small_ti(monkeypatch):
    """`ViTCB_Ti` of the numbers of the tests' tiny model."""
    numbers = {number: TINY[number] for number in SIZES_OF_THE_PACKAGE["ti"]}
    monkeypatch.setitem(SIZES_OF_THE_PACKAGE, "ti", numbers)
    models = dict(registry._models)
    for name in ("vit_ti", "vitcb_ti", "vitcbs_ti"):
        models[name] = {**models[name], **numbers}
    monkeypatch.setattr(registry, "_models", models)


@pytest.mark.parametrize(
    "broadcast, name", [("none", "vit_ti"), ("cb", "vitcb_ti"), ("cbs", "vitcbs_ti")]
)
def test_a_model_is_named_by_its_kind_and_size(broadcast, name, small_ti):
    model = keras_cbvit.ViTCB_Ti(
        input_shape=(8, 12, 3), patch_size=4, classes=3, broadcast=broadcast
    )
    assert model.name == name
    assert tiny(broadcast=broadcast, depth=1).name == name.removesuffix("_ti")
    assert tiny(broadcast=broadcast, name="mine").name == "mine"


def test_the_default_is_deits_small_model_with_cb_at_the_end_of_every_mlp():
    assert dataclasses.asdict(keras_cbvit.ViTSpec()) == {
        "input_shape": (224, 224, 3),
        "patch_size": 16,
        "hidden_dim": 384,
        "depth": 12,
        "num_heads": 6,
        "mlp_ratio": 4,
        "class_token": True,
        "distillation_token": False,
        "num_register_tokens": 0,
        "prefix_position_embedding": True,
        "position_grid": None,
        "pre_norm": False,
        "qkv_bias": True,
        "qk_norm": False,
        "activation": "gelu",
        "layer_scale": None,
        "epsilon": 1e-6,
        "broadcast": "cb",
        "broadcast_place": "mlp_end",
        "broadcast_blocks": "all",
        "context": "mean",
        "uniform_head": "none",
        "squeeze_excitation": False,
        "extra_branch": "none",
        "drop_path_rate": 0.0,
        "remat": False,
        "include_preprocessing": True,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "pooling": "token",
        "fc_norm": False,
        "classes": 1000,
        "classifier_activation": "softmax",
    }
    assert keras_cbvit.ViTCB(weights=None).spec == keras_cbvit.ViTSpec()


# Signatures.


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.any_backend
def test_builders_take_the_arguments_of_keras_applications_in_their_order(builder):
    theirs = inspect.signature(keras.applications.ResNet50).parameters
    ours = inspect.signature(builder).parameters
    places = [p.name for p in ours.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    # theirs begins with arguments for old functions
    assert places == [name for name in theirs if name in places]
    assert places == [
        "include_top",
        "weights",
        "input_tensor",
        "input_shape",
        "pooling",
        "classes",
        "classifier_activation",
        "name",
    ]
    for name in {*places} - {"weights", "classes", "name"}:
        assert ours[name].default == theirs[name].default


def test_the_signature_has_every_field_but_the_sizes_own():
    fields = {field.name for field in dataclasses.fields(keras_cbvit.ViTSpec)}
    own = {"include_top", "weights", "input_tensor", "name", "dtype"}
    own |= {"fold_layer_scale", "allow_other_function"}
    for builder in BUILDERS:
        parameters = inspect.signature(builder).parameters
        sized = {*SIZES_OF_THE_PACKAGE["s"]} if builder is not BUILDERS[0] else set()
        assert parameters.keys() == (fields | own) - sized
        for name, parameter in parameters.items():
            assert f"\n    {name}: " in builder.__doc__
            assert parameter.kind is not parameter.VAR_KEYWORD
    assert keras_cbvit.ViTCB_S.__name__ == "ViTCB_S"
    with pytest.raises(TypeError, match="hidden_dim"):
        keras_cbvit.ViTCB_S(hidden_dim=192)
    with pytest.raises(TypeError, match="too many positional arguments"):
        keras_cbvit.ViTCB(*[None] * 9)


@pytest.mark.parametrize(
    "given, meant",
    [
        ("num_classes", "classes"),
        ("num_labels", "classes"),
        ("img_size", "input_shape"),
        ("image_size", "input_shape"),
        ("in_chans", "input_shape"),
        ("drop_path", "drop_path_rate"),
        ("pach_size", "patch_size"),
    ],
)
@pytest.mark.any_backend
def test_a_wrong_keyword_is_answered_with_the_right_one(given, meant):
    message = rf"^ViTCB\(\) got an unexpected .* '{given}'; did you mean {meant}\?$"
    with pytest.raises(TypeError, match=message):
        keras_cbvit.ViTCB(**{given: 3})
    with pytest.raises(TypeError, match=r"^ViTCB_S\(\) got an unex.* 'qwertz'\.$"):
        keras_cbvit.ViTCB_S(qwertz=3)


def test_a_upernet_by_name_needs_its_classes():
    message = r"^create_model\('upernet_vit_s'\) requires the argument classes"
    with pytest.raises(TypeError, match=message):
        keras_cbvit.create_model("upernet_vit_s")


def test_a_size_takes_the_other_arguments_by_place_and_by_name(small_ti):
    model = keras_cbvit.ViTCB_Ti(
        True, None, None, (8, 12, 3), "avg", 5, None, "mine", patch_size=4
    )
    spec = model.spec
    assert (spec.input_shape, spec.patch_size) == ((8, 12, 3), 4)
    assert (spec.classes, spec.pooling, spec.classifier_activation) == (5, "avg", None)
    assert model.name == "mine"


def test_none_always_means_that_nothing_is_given():
    flags = {"include_top", "fold_layer_scale", "allow_other_function"}
    nothing = dict.fromkeys(
        inspect.signature(keras_cbvit.ViTCB).parameters.keys()
        - {*flags, "classifier_activation", *TINY}
    )
    assert tiny(**nothing).get_config() == tiny().get_config()
    assert tiny(classifier_activation=None).spec.classifier_activation is None


# What models give.


def test_random_weights_follow_the_seed_of_keras():
    def first_kernel():
        keras.utils.set_random_seed(3)
        return values(tiny())["block_0/mlp/fc1/kernel"]

    assert (first_kernel() == first_kernel()).all()


def test_it_predicts_probabilities_and_without_activation_logits():
    assert predict(tiny()).sum(axis=1) == pytest.approx(1, abs=1e-5)
    logits = tiny(classifier_activation=None)
    assert predict(logits).shape == (4, TINY["classes"])
    assert predict(logits).sum(axis=1) != pytest.approx(1, abs=1e-5)


def test_without_a_head_there_are_no_classes():
    assert tiny(include_top=False, classes=None).spec.pooling is None
    model = tiny(include_top=False, classes=None, pooling="avg")
    assert (model.head, model.spec.classes, model.num_classes) == (None, None, None)
    with pytest.raises(ValueError, match="classes=3 has no effect with include_top=F"):
        tiny(include_top=False)


# Images of any size.


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.any_backend),
        {"num_register_tokens": 2, "broadcast": "cbs"},
        pytest.param(
            {"num_register_tokens": 2, "prefix_position_embedding": False},
            marks=pytest.mark.any_backend,
        ),
    ],
)
def test_a_model_of_any_size_is_that_of_a_fixed_size(changes, tmp_path):
    fixed = fill(tiny(**changes))
    any_size = tiny(
        input_shape=(None, None, 3), position_grid=fixed.spec.grid, **changes
    )
    assert any_size.input_shape == (None, None, None, 3)
    assert values(any_size).keys() == values(fixed).keys()
    any_size.set_weights(fixed.get_weights())
    x = images(fixed)
    assert_close(any_size.predict(x, verbose=0), predict(fixed, x), atol=1e-6)
    # Of another size, it is the fixed model that resampled its position embedding.
    fixed.save(tmp_path / "model.keras")
    for size in ((16, 8), (4, 4), (12, 24)):
        other = keras_cbvit.ViTCB(
            weights=tmp_path / "model.keras", input_shape=(*size, 3)
        )
        x = np.random.default_rng(0).uniform(0, 255, (2, *size, 3)).astype("float32")
        found = any_size.predict(x, verbose=0)
        assert_close(found, predict(other, x), atol=1e-5)
        assert np.abs(found - found[:1]).max() > 1e-4
    # It is loaded from a file of one size, and back again.
    loaded = keras_cbvit.ViTCB(
        weights=tmp_path / "model.keras", input_shape=(None, None, 3)
    )
    assert loaded.get_config() == {**any_size.get_config(), "name": loaded.name}
    assert_same_values(values(loaded), values(fixed))
    loaded.save(tmp_path / "any.keras")
    for load in (keras_cbvit.load_model, lambda path: keras_cbvit.ViTCB(weights=path)):
        copy = load(tmp_path / "any.keras")
        assert copy.spec == loaded.spec
        assert_same_values(values(copy), values(fixed))
    back = keras_cbvit.ViTCB(weights=tmp_path / "any.keras", input_shape=(8, 12, 3))
    assert back.spec == fixed.spec
    assert_same_values(values(back), values(fixed))


def test_one_side_may_be_fixed():
    model = tiny(input_shape=(None, 12, 3), position_grid=(2, 3))
    x = np.zeros((1, 20, 12, 3), "float32")
    assert model.predict(x, verbose=0).shape == (1, 3)
    with pytest.raises(ValueError, match="patch_size=4 does not divide .* 7x12"):
        model(x[:, :7])


# A tensor of images.


def test_a_model_is_built_on_an_input(tmp_path):
    source = fill(tiny())
    source.save(tmp_path / "model.keras")
    mine = keras.Input((16, 8, 3), name="mine")
    model = keras_cbvit.ViTCB(weights=tmp_path / "model.keras", input_tensor=mine)
    assert type(model) is keras_cbvit.VisionTransformer
    assert model.input is mine
    assert model.spec.input_shape == (16, 8, 3)
    expected = keras_cbvit.ViTCB(
        weights=tmp_path / "model.keras", input_shape=(16, 8, 3)
    )
    assert_same_values(values(model), values(expected))
    x = images(model)
    np.testing.assert_array_equal(predict(model), predict(expected, x))
    model.save(tmp_path / "mine.keras")
    copy = keras.saving.load_model(tmp_path / "mine.keras")
    np.testing.assert_array_equal(predict(copy), predict(model))


def test_a_model_is_built_on_what_other_layers_give():
    mine = keras.Input((4, 6, 3))
    doubled = keras.layers.UpSampling2D()(mine)
    arguments = {name: TINY[name] for name in TINY.keys() - {"input_shape"}}
    model = keras_cbvit.ViTCB(input_tensor=doubled, **arguments, name="mine")
    assert model.input is mine and model.name == "mine"
    (vit,) = (
        layer
        for layer in model.layers
        if isinstance(layer, keras_cbvit.VisionTransformer)
    )
    assert vit.spec.input_shape == (8, 12, 3)
    x = np.random.default_rng(0).uniform(0, 255, (2, 4, 6, 3)).astype("float32")
    expected = predict(vit, x.repeat(2, axis=1).repeat(2, axis=2))
    np.testing.assert_allclose(predict(model, x), expected, atol=1e-6)


def test_a_tensor_that_does_not_fit_is_refused():
    mine = keras.Input((8, 12, 3))
    assert tiny(input_tensor=mine).input is mine  # the same input_shape
    with pytest.raises(
        ValueError, match=r"input_shape=\(8, 16, 3\) differs from that of inp"
    ):
        tiny(input_tensor=mine, input_shape=(8, 16, 3))
    with pytest.raises(ValueError, match=r"input_shape=\(8, 10, 3\) must have"):
        tiny(input_tensor=keras.Input((8, 10, 3)), input_shape=None)
    with pytest.raises(ValueError, match="input_tensor=.* must be a symbolic tensor"):
        tiny(input_tensor=np.zeros((1, 8, 12, 3)))


# By name.

SMALL = {"hidden_dim": 16, "num_heads": 2, "patch_size": 4}
MODELS = keras_cbvit.list_models("vit*")
UPERNETS = keras_cbvit.list_models("upernet_*")


def small(name):
    """A model of a name, small, with random weights."""
    if name in UPERNETS:
        more = {"classes": 3, "channels": 4, "depth": 4, "blocks": range(4)}
        model = keras_cbvit.create_model(name, input_shape=(16, 24, 3), **SMALL, **more)
    else:
        more = {"classes": 3, "depth": 2, "input_shape": (16, 24, 3)}
        model = keras_cbvit.create_model(name, **SMALL, **more)
    return fill(model)


PAPERS = [
    f"{family}_{size}"
    for family in ("vit", "vitcb", "vitcbs")
    for size in ("b", "s", "ti")
]


def test_models_are_listed_by_pattern():
    assert {*PAPERS} <= {*MODELS}
    assert [f"upernet_{name}" for name in PAPERS] == UPERNETS
    assert keras_cbvit.list_models() == UPERNETS + MODELS
    assert keras_cbvit.list_models("vitcb_?") == ["vitcb_b", "vitcb_s"]
    assert keras_cbvit.list_models("nothing*") == []


def test_published_weights_are_listed_by_the_pattern_of_their_architecture():
    pretrained = keras_cbvit.list_models(pretrained=True)
    assert pretrained == keras_cbvit.list_weights()
    found = keras_cbvit.list_models("vitcb_*", pretrained=True)
    assert found == [name for name in pretrained if name.startswith("vitcb_")]


# Each compiles; what is of a backend shows in one of each kind.
ON_EACH_BACKEND = ("vitcbs_ti", "upernet_vitcbs_ti")
# Sizes differ in the numbers that `small` changes.
OF_ONE_SIZE = [n for n in (*MODELS, *UPERNETS) if not n.endswith(("_s", "_b"))]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in ON_EACH_BACKEND else pytest.mark.any_backend)
        for n in OF_ONE_SIZE
    ],
)
def test_every_model_of_the_zoo_predicts_and_comes_back_from_its_file(name, tmp_path):
    model = small(name)
    for weight in model.weights:
        if weight.path.endswith("variance"):
            weight.assign(np.abs(weight.numpy()) + 0.5)
    x = np.random.default_rng(0).uniform(0, 255, (2, 16, 24, 3)).astype("float32")
    expected = predict(model, x)
    assert expected.shape == ((2, 16, 24, 3) if name in UPERNETS else (2, 3))
    assert np.isfinite(expected).all() and np.ptp(expected) > 1e-3
    model.save(tmp_path / "model.keras")
    copy = keras_cbvit.load_model(tmp_path / "model.keras")
    assert type(copy) is type(model)
    assert copy.get_config() == model.get_config()
    assert_same_values(values(copy), values(model))
    np.testing.assert_array_equal(predict(copy, x), expected)


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.any_backend
def test_the_papers_models_have_the_fields_of_their_names(name):
    family, size = name.split("_")
    spec = keras_cbvit.create_model(name, depth=1).spec
    broadcast = {"vit": "none", "vitcb": "cb", "vitcbs": "cbs"}[family]
    numbers = {**SIZES_OF_THE_PACKAGE[size], "depth": 1}
    assert spec == keras_cbvit.ViTSpec(broadcast=broadcast, **numbers)


def test_the_builder_of_a_size_builds_the_model_of_its_name(small_ti):
    given = {"input_shape": (8, 12, 3), "patch_size": 4, "classes": 3}
    built = keras_cbvit.ViTCB_Ti(broadcast="cbs", **given)
    model = keras_cbvit.create_model("vitcbs_ti", **given)
    assert model.get_config() == built.get_config()
    assert model.name == "vitcbs_ti"


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(registry, "_models", dict(registry._models))
    keras_cbvit.register_model(
        "mine_s14_reg4",
        **{**TINY, "broadcast": "none"},
        num_register_tokens=4,
        layer_scale=1e-5,
        pooling="avg",
        classifier_activation=None,
    )
    return "mine_s14_reg4"


def test_a_model_of_ones_own_is_built_by_its_name(registered):
    assert registered in keras_cbvit.list_models("mine_*")
    model = keras_cbvit.create_model(registered)
    assert model.name == registered
    assert model.spec.num_register_tokens == 4
    assert model.spec.classifier_activation is None
    other = keras_cbvit.create_model(registered, classes=5, depth=None, pooling=None)
    assert other.spec == model.spec.replace(classes=5)
    headless = keras_cbvit.create_model(registered, include_top=False)
    assert headless.spec == model.spec.replace(
        classes=None, pooling=None, classifier_activation="softmax"
    )


@pytest.mark.parametrize(
    "name, message",
    [
        ("Mine", "name='Mine' must start with a letter"),
        ("1x", "must start with a letter and contain only lowercase letters"),
        ("", "name='' must start with a letter"),
        ("a.b", "name='a.b' must start with a letter"),
        (3, "name=3 must start with a letter"),
        ("vit_s", "name='vit_s' is already registered"),
        ("upernet_mine", "name='upernet_mine' must not start with upernet_"),
    ],
)
def test_a_name_that_cannot_be_registered_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        keras_cbvit.register_model(name, depth=1)
    assert keras_cbvit.list_models() == UPERNETS + MODELS


def test_an_unknown_name_is_refused_with_the_known_ones():
    for name in ("vit_xl", "upernet_vit_xl", "imagenet", "", None, ["vit_s"]):
        with pytest.raises(ValueError, match=r"is unknown; use one of upernet_vit_b, "):
            keras_cbvit.create_model(name)
    with pytest.raises(ValueError, match="pattern=3 must be a string"):
        keras_cbvit.list_models(3)
