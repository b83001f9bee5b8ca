"""What a model is built from: a model that is right, or one sentence."""

import dataclasses
import json
import math
import typing

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_cbvit
from keras_cbvit import ViTSpec
from keras_cbvit.models import registry
from keras_cbvit.models.difference import difference
from keras_cbvit.models.size import count_weights
from tests.hostile import IS_FAST, Evil, assert_one_sentence, hostile
from tests.tiny import TINY, predict, tiny

SMALL = {**TINY, "depth": 1, "input_shape": (4, 8, 3)}
# For each field values that it takes, of NumPy, too.
VALID = {
    "input_shape": st.sampled_from(
        [(4, 8, 3), [8, 4, 3], np.array([4, 4, 3]), (None, 8, 3), [None, None, 3]]
    ),
    "patch_size": st.sampled_from([4, np.int8(2), np.array(1)]),
    "hidden_dim": st.sampled_from([8, np.int64(16), np.uint8(12)]),
    "depth": st.sampled_from([1, np.int16(2), 3]),
    "num_heads": st.sampled_from([1, np.int64(2), 4]),
    "mlp_ratio": st.sampled_from([1, 2.5, np.float32(0.5), np.float16(3)]),
    "class_token": st.sampled_from([True, np.False_]),
    "distillation_token": st.sampled_from([False, np.True_]),
    "num_register_tokens": st.sampled_from([0, 1, np.int64(4)]),
    "prefix_position_embedding": st.sampled_from([True, np.False_]),
    "position_grid": st.sampled_from([(1, 2), [3, 1], np.array([2, 2])]),
    "pre_norm": st.sampled_from([False, np.True_]),
    "qkv_bias": st.sampled_from([True, np.False_]),
    "qk_norm": st.sampled_from([False, np.True_]),
    "activation": st.sampled_from(["gelu", "gelu_tanh", "quick_gelu", "swiglu"]),
    "layer_scale": st.sampled_from([0, 1e-5, np.float32(0.5), 1]),
    "epsilon": st.sampled_from([1e-6, np.float64(1e-3), 1]),
    "broadcast": st.sampled_from(["none", "cb", np.str_("cbs")]),
    "broadcast_place": st.sampled_from(
        ["mlp_end", "mlp_front", "mlp_mid", "msa_end", "both"]
    ),
    "broadcast_blocks": st.sampled_from(["all", "upper", [0], np.arange(1), range(1)]),
    "context": st.sampled_from(["mean", "max", "token"]),
    "uniform_head": st.sampled_from(
        ["none", "replaced", np.str_("compensated"), "attached"]
    ),
    "squeeze_excitation": st.sampled_from([False, np.True_]),
    "extra_branch": st.sampled_from(["none", "msa", "mlp"]),
    "drop_path_rate": st.sampled_from([0, 0.5, np.float32(0.25)]),
    "remat": st.sampled_from([True, np.False_]),
    "include_preprocessing": st.sampled_from([True, np.bool_(False)]),
    "mean": st.sampled_from([(0.5, 0.5, 0.5), np.float32([0.25, 0, 1]), [0, 0, 0]]),
    "std": st.sampled_from([(0.5, 0.5, 0.5), np.float64([0.25, 1, 1]), [1, 1, 1]]),
    "pooling": st.sampled_from(["token", "avg", "token_avg", "distilled"]),
    "fc_norm": st.sampled_from([False, np.True_]),
    "classes": st.sampled_from([2, np.int64(5), np.array([0, 4, 2]).max() + 1]),
    "classifier_activation": st.sampled_from(
        [None, "softmax", "sigmoid", keras.activations.relu]
    ),
}
# What the builders take beside them.
BUILT = {
    "include_top": st.just(np.True_),
    "dtype": st.sampled_from(
        [None, "float32", "mixed_bfloat16", np.dtype("float32"), "float64"]
    ),
    "name": st.sampled_from([None, "a", "a.b-c_1", np.str_("b")]),
    "allow_other_function": st.sampled_from([False, np.True_]),
}


def test_every_field_is_tested_here():
    assert [field.name for field in dataclasses.fields(ViTSpec)] == [*VALID]


def given_ones(arguments):
    """Without those of `None`, which always means that nothing is given."""
    return {
        name: value
        for name, value in arguments.items()
        if value is not None or name == "classifier_activation"
    }


def check_model(model, arguments):
    """Its shapes are those of its arguments, and its configuration builds it again."""
    arguments = {**vars(ViTSpec()), **given_ones(arguments)}
    config = model.get_config()
    assert model.output_shape == (None, int(arguments["classes"]))
    sides = [None if s is None else int(s) for s in arguments["input_shape"]]
    assert list(model.input_shape[1:]) == sides
    assert model.count_params() == count_weights(model.spec)
    text = json.dumps(keras.saving.serialize_keras_object(model))
    copy = keras.saving.deserialize_keras_object(json.loads(text))
    assert copy.get_config() == config
    assert copy.spec == model.spec
    assert copy.output_shape == model.output_shape
    shapes = [(w.path, tuple(w.shape)) for w in model.weights]
    assert [(w.path, tuple(w.shape)) for w in copy.weights] == shapes


def goes_together(arguments):
    """Whether valid fields go together."""
    any_size = None in list(arguments["input_shape"])
    arguments = {**vars(ViTSpec()), **arguments}
    pooling, distills = arguments["pooling"], arguments["distillation_token"]
    by_token = arguments["context"] == "token" and arguments["broadcast"] != "none"
    if not arguments["class_token"] and (pooling != "avg" or distills or by_token):
        return False
    if pooling == "distilled" and not distills:
        return False
    if arguments["fc_norm"] and pooling in ("token_avg", "distilled"):
        return False
    has_uniform_head = arguments["uniform_head"] != "none"
    if has_uniform_head and (arguments["qk_norm"] or not arguments["qkv_bias"]):
        return False
    return not (
        arguments["hidden_dim"] % arguments["num_heads"]
        or any(s and s % arguments["patch_size"] for s in arguments["input_shape"][:2])
        or (arguments.get("position_grid") is not None and not any_size)
        or (
            arguments["num_heads"] == 1
            and arguments.get("uniform_head") in ("replaced", "compensated")
        )
    )


@settings(max_examples=40 if IS_FAST else 5)
@given(st.fixed_dictionaries({}, optional={**VALID, **BUILT}))
@pytest.mark.any_backend
def test_valid_arguments_make_a_model_that_is_right(given_arguments):
    arguments = {**SMALL, **given_arguments}
    try:
        model = keras_cbvit.ViTCB(**arguments)
    except ValueError as error:
        assert_one_sentence(error, *given_arguments)
        assert not goes_together(arguments)
    else:
        assert goes_together(arguments)
        check_model(model, arguments)


@settings(max_examples=200 if IS_FAST else 60)
@given(data=st.data())
@pytest.mark.any_backend
def test_any_argument_makes_a_model_or_one_sentence_that_names_it(data):
    others = ["weights", "input_tensor"]
    name = data.draw(st.sampled_from([*VALID, *BUILT, *others]))
    arguments = {**SMALL, name: data.draw(hostile)}
    try:
        model = keras_cbvit.ViTCB(**arguments)
    except (ValueError, FileNotFoundError) as error:
        assert_one_sentence(error, f"{name}=")
        return
    if model.spec.classes is not None:
        check_model(model, arguments)
    assert np.isfinite(predict(model)).all()


@pytest.mark.parametrize("name", [*VALID, *BUILT, "weights", "input_tensor"])
def test_a_value_with_which_nothing_can_be_done_is_refused(name):
    with pytest.raises(ValueError) as error:
        keras_cbvit.ViTCB(**{**SMALL, name: Evil()})
    assert_one_sentence(error.value, f"{name}=")


@settings(max_examples=300)
@given(name=st.sampled_from(sorted(VALID)), value=hostile)
def test_a_spec_is_checked_when_it_is_made(name, value):
    try:
        spec = ViTSpec(**{**SMALL, name: value})
    except ValueError as error:
        assert_one_sentence(error, f"{name}=")
    else:
        again = ViTSpec(**json.loads(json.dumps(spec.to_json())))
        assert again == spec
        assert hash(again) == hash(spec)


@settings(max_examples=300)
@given(spec=st.fixed_dictionaries({}, optional=VALID))
@pytest.mark.any_backend
def test_a_spec_is_pythons_own_values_and_comes_back_from_json(spec):
    arguments = {**SMALL, **spec}
    if not goes_together(arguments):
        return
    spec = ViTSpec(**arguments)
    assert ViTSpec(**json.loads(json.dumps(spec.to_json()))) == spec
    for value in dataclasses.astuple(spec):
        for each in value if isinstance(value, tuple) else (value,):
            assert type(each) in (int, float, bool, str, type(None))


@settings(max_examples=25 if IS_FAST else 3)
@given(fields=st.fixed_dictionaries({}, optional=VALID))
def test_a_registered_model_has_its_fields(fields):
    known = dict(registry._models)
    arguments = {**SMALL, **fields}
    try:
        keras_cbvit.register_model("mine", **arguments)
    except ValueError as error:
        assert_one_sentence(error, *arguments)
        assert not goes_together(arguments)
    else:
        model = keras_cbvit.create_model("mine")
        assert model.spec == ViTSpec(**arguments)
        assert model.name == "mine"
        check_model(model, arguments)
    finally:
        registry._models.clear()
        registry._models.update(known)


@settings(max_examples=150)
@given(name=st.sampled_from(["name", *VALID]), value=hostile)
def test_what_cannot_be_registered_is_refused_in_one_sentence(name, value):
    known = dict(registry._models)
    arguments = {"name": "mine", **SMALL, name: value}
    try:
        keras_cbvit.register_model(**arguments)
    except ValueError as error:
        assert_one_sentence(error, f"{name}=")
    else:
        assert arguments["name"] in keras_cbvit.list_models()
    finally:
        registry._models.clear()
        registry._models.update(known)


@settings(max_examples=60 if IS_FAST else 20)
@given(name=st.sampled_from(["name", *VALID, *BUILT]), value=hostile)
def test_any_override_of_a_name_makes_a_model_or_one_sentence(name, value):
    arguments = {"name": "vitcb_ti", **SMALL, name: value}
    if name == "name":  # of the zoo, not the model's own
        with pytest.raises(ValueError) as error:
            keras_cbvit.create_model(**arguments)
        message = str(error.value)
        assert message.startswith("name=") and "use one of upernet_vit_b, " in message
        return
    try:
        model = keras_cbvit.create_model(**arguments)
    except (ValueError, FileNotFoundError) as error:
        assert_one_sentence(error, f"{name}=")
    else:
        assert model.count_params() == count_weights(model.spec)


# The memory that a model takes.


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"broadcast": "cbs", "broadcast_place": "both"},
        {"broadcast": "cbs", "broadcast_place": "mlp_mid", "broadcast_blocks": "upper"},
        {"broadcast": "cbs", "broadcast_place": "mlp_front", "broadcast_blocks": [0]},
        {"mlp_ratio": 2.7, "include_top": False, "classes": None},
        {"input_shape": (16, 4, 1), "include_preprocessing": False},
        {"input_shape": (None, None, 3), "position_grid": (3, 2)},
        {"num_register_tokens": 3},
        {"num_register_tokens": 3, "prefix_position_embedding": False},
        {"class_token": False, "pooling": "avg", "fc_norm": True},
        {"distillation_token": True, "pooling": "distilled", "pre_norm": True},
        {"pooling": "token_avg", "qkv_bias": False, "qk_norm": True},
        {"activation": "swiglu", "extra_branch": "mlp", "mlp_ratio": 8 / 3},
        {"layer_scale": 0.1, "squeeze_excitation": True},
        {"uniform_head": "replaced", "extra_branch": "msa"},
        {"uniform_head": "compensated", "extra_branch": "mlp"},
        {"uniform_head": "attached", "layer_scale": 1},
    ],
)
@pytest.mark.any_backend
def test_weights_are_counted_before_anything_is_built(depth, changes):
    model = tiny(depth=depth, **changes)
    assert count_weights(model.spec) == model.count_params()


@pytest.mark.parametrize(
    "large, message",
    [
        ({"depth": 10**9}, "depth=1000000000 must be a whole number of at most 1000"),
        ({"depth": 1001}, "depth=1001 must be a whole number of at most 1000"),
        ({"hidden_dim": 10**12}, "hidden_dim=1000000000000 must be .* of at most"),
        (
            {"hidden_dim": 10**6},
            r"hidden_dim=1000000, .* 1\.6e\+13 weights \(6\.4e",
        ),
        (
            {"depth": 1000, "hidden_dim": 10**5},
            r"depth=1000, .* GB.*, but this",
        ),
        (
            {"input_shape": (4 * 10**6, 4 * 10**6, 3)},
            "input_shape=.* GB.*, but this",
        ),
        (
            {"input_shape": (None, None, 3), "position_grid": (10**6, 10**6)},
            "position_grid=.* GB.*, but this",
        ),
        ({"mlp_ratio": 1e300}, "mlp_ratio=1e.300 gives more than 10000000 hidden"),
        ({"classes": 10**400}, "classes=10.* must be a whole number of at most"),
        ({"num_register_tokens": 1001}, "num_register_tokens=1001 must be .* at most"),
        ({"layer_scale": 1e30}, r"layer_scale=1e\+30 must be between 0 and 100"),
    ],
)
def test_what_no_memory_holds_is_refused_before_it_is_built(large, message):
    with pytest.raises(ValueError, match=message):
        tiny(**large)


# Fields that do not go together, and what a spec says of itself.


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pooling": None}, "pooling=None leaves no vector to classify"),
        (
            {"num_heads": 1, "uniform_head": "replaced"},
            "num_heads=1 leaves no softmax head with uniform_head='replaced'; "
            "use 2 or more",
        ),
        (
            {"position_grid": (2, 2)},
            r"position_grid=\(2, 2\) requires images of any size, but input_shape=\(8",
        ),
        (
            {"mean": (0.5, 0.5)},
            "mean=.* must have one number per channel of input_shape=",
        ),
        ({"mean": ()}, "mean=.* must be a sequence with one number per channel"),
        ({"std": (0.5, 0.5, 0)}, "std=0 must be between 0.001 and 1"),
        ({"mean": (0, 0, 127.5)}, "mean=127.5 must be between 0 and 1"),
        ({"epsilon": 0}, "epsilon=0 must be between 1e-12 and 1"),
        ({"uniform_head": "all"}, "uniform_head='all' is unknown; use one of 'none'"),
        ({"extra_branch": True}, "extra_branch=True is unknown; use one of 'none'"),
        ({"broadcast_blocks": ()}, "is empty; set broadcast='none'"),
        ({"broadcast_blocks": (0, 0)}, "contains a block twice"),
    ],
)
def test_a_spec_that_cannot_work_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ViTSpec(**{**TINY, **changes})


def test_an_unknown_field_is_a_type_error():
    for call in (ViTSpec, keras_cbvit.ViTCB, keras_cbvit.ViTCB_S):
        with pytest.raises(TypeError, match="unexpected keyword argument 'hiden_dim'"):
            call(hiden_dim=3)


def test_a_spec_cannot_be_changed_but_copied():
    spec = ViTSpec(**TINY)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.depth = 3
    assert spec.replace(depth=3).depth == 3
    with pytest.raises(ValueError, match="depth=0"):
        spec.replace(depth=0)


def test_every_field_has_an_annotation_that_checks_it():
    hints = typing.get_type_hints(ViTSpec, include_extras=True)
    for name, hint in hints.items():
        parts = (hint, *typing.get_args(hint))
        assert hint is bool or any(
            typing.get_origin(part) in (typing.Annotated, typing.Literal)
            for part in parts
        ), name


@pytest.mark.parametrize(
    "changes, prefix, grid",
    [
        ({}, 1, (2, 3)),
        ({"num_register_tokens": 4}, 5, (2, 3)),
        ({"input_shape": (None, None, 3)}, 1, (56, 56)),
        ({"input_shape": (None, 12, 3)}, 1, (56, 3)),
        ({"input_shape": (None, 12, 3), "position_grid": (5, 7)}, 1, (5, 7)),
    ],
)
def test_a_spec_knows_its_tokens(changes, prefix, grid):
    spec = ViTSpec(**{**TINY, **changes})
    assert (spec.num_prefix_tokens, spec.grid) == (prefix, grid)
    assert spec.mlp_dim == 32


def test_contexts_are_told_by_block_and_place():
    spec = ViTSpec(**{**TINY, "broadcast": "cbs", "context": "max", "depth": 3})
    assert spec.contexts() == {(i, "mlp_end"): (True, "max") for i in range(3)}
    both = spec.replace(broadcast_place="both", broadcast_blocks=(2,))
    assert both.contexts() == {
        (2, "msa_end"): (True, "max"),
        (2, "mlp_end"): (True, "max"),
    }
    assert spec.replace(broadcast="none").contexts() == {}


# NumPy's values.


def test_numbers_of_numpy_and_of_the_backend_are_pythons_in_the_configuration():
    labels = np.array([0, 2, 1])
    tensor = keras.ops.convert_to_tensor(labels)
    expected = tiny().get_config()
    for classes in (labels.max() + 1, np.array(3), keras.ops.max(tensor) + 1):
        model = tiny(classes=classes, mlp_ratio=np.float32(2), remat=np.False_)
        assert model.get_config() == expected
        assert type(model.get_config()["spec"]["classes"]) is int
        assert predict(model).shape == (4, 3)
    with pytest.raises(ValueError, match="classes=.* must be a whole number of at"):
        tiny(classes=labels)


@pytest.mark.parametrize(
    "activation, name",
    [(keras.activations.softmax, "softmax"), (keras.ops.sigmoid, "sigmoid")],
)
@pytest.mark.any_backend
def test_activations_of_keras_are_names_in_the_configuration(activation, name):
    model = tiny(classifier_activation=activation)
    assert model.get_config() == tiny(classifier_activation=name).get_config()


@keras.saving.register_keras_serializable(package="tests")
def doubled(x):
    return 2 * x


def test_a_function_has_to_be_registered_so_that_a_file_can_hold_it(tmp_path):
    model = tiny(classifier_activation=doubled)
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(predict(copy), predict(model))
    with pytest.raises(ValueError, match="classifier_activation=<function .* must be"):
        tiny(classifier_activation=lambda x: x)


def test_messages_about_any_value_are_short():
    for value in ("x" * 10_000, ["y" * 99] * 9999, 10**5000, np.zeros((99, 99))):
        for name in ("classes", "context", "name", "weights", "broadcast_blocks"):
            with pytest.raises((ValueError, FileNotFoundError)) as error:
                tiny(**{name: value})
            assert_one_sentence(error.value, f"{name}=")


# How two specs differ.


@pytest.mark.parametrize(
    "found, wanted, new_head, name",
    [
        ({}, {}, False, None),
        ({}, {"layer_scale": 0.1}, False, "layer_scale"),
        ({}, {"epsilon": 1e-5}, False, "epsilon"),
        ({}, {"num_register_tokens": 2}, False, "num_register_tokens"),
        ({}, {"prefix_position_embedding": False}, False, "prefix_position_embedding"),
        ({}, {"uniform_head": "attached"}, False, "uniform_head"),
        ({}, {"squeeze_excitation": True}, False, "squeeze_excitation"),
        ({}, {"extra_branch": "mlp"}, False, "extra_branch"),
        ({}, {"mean": (0.5, 0.5, 0.5)}, False, "mean"),
        ({}, {"std": (0.5, 0.5, 0.5)}, False, "std"),
        ({"include_preprocessing": False}, {}, False, "include_preprocessing"),
        ({}, {"include_preprocessing": False, "std": (1, 1, 1)}, False, None),
        ({}, {"pooling": "avg"}, False, "pooling"),
        ({}, {"pooling": "avg"}, True, None),
        ({}, {"pooling": "avg", "classes": None}, False, None),
        ({}, {"drop_path_rate": 0.5, "remat": True}, False, None),
        ({}, {"input_shape": (None, None, 3), "position_grid": (1, 1)}, False, None),
        ({}, {"classes": 7, "classifier_activation": None}, True, None),
    ],
)
def test_two_specs_differ_by_what_computes_something_else(
    found, wanted, new_head, name
):
    specs = (ViTSpec(**{**TINY, **changes}) for changes in (found, wanted))
    assert difference(*specs, new_head) == name


# What takes a model.


@pytest.fixture(scope="module")
def backbone():
    vit = tiny(depth=4, input_shape=(16, 16, 3))
    return keras_cbvit.feature_pyramid(vit, (0, 1, 2, 3))


@pytest.mark.any_backend
def test_segmentation_models_take_numpys_numbers_and_refuse_others(backbone):
    model = keras_cbvit.SegmentationModel(
        backbone, np.int64(3), np.int16(4), dtype="float32"
    )
    assert model.output_shape == (None, None, None, 3)
    copy = keras.models.model_from_json(model.to_json())
    assert copy.output_shape == model.output_shape

    @settings(max_examples=60 if IS_FAST else 20)
    @given(
        name=st.sampled_from(
            ["classes", "channels", "classifier_activation", "dtype", "name"]
        ),
        value=hostile,
    )
    def check(name, value):
        arguments = {"classes": 3, "channels": 2, name: value}
        try:
            model = keras_cbvit.SegmentationModel(backbone, **arguments)
        except ValueError as error:
            assert_one_sentence(error, f"{name}=")
        else:
            assert model.output_shape == (None, None, None, int(arguments["classes"]))

    check()


@pytest.mark.any_backend
def test_blocks_windows_and_other_numbers_are_checked_alike(backbone):
    vit = tiny(depth=4)
    model = keras_cbvit.SegmentationModel(backbone, 3, 2)
    images = np.zeros((1, 16, 16, 3), "float32")
    calls = {
        "blocks": lambda value: keras_cbvit.feature_pyramid(vit, value),
        "channels": model.with_auxiliary_head,
        "divisor": lambda value: keras_cbvit.predict_whole(model, images, value),
        "window": lambda value: keras_cbvit.predict_sliding(model, images, value),
        "stride": lambda value: keras_cbvit.predict_sliding(
            model, images, (16, 16), value
        ),
        "pattern": keras_cbvit.list_models,
        "top": lambda value: keras_cbvit.decode_predictions(
            np.eye(3), ["a", "b", "c"], value
        ),
        "batch_size": lambda value: keras_cbvit.analysis.attention_statistics(
            vit, np.zeros((1, *TINY["input_shape"])), value
        ),
    }

    @settings(max_examples=100 if IS_FAST else 40)
    @given(name=st.sampled_from(sorted(calls)), value=hostile)
    def check(name, value):
        try:
            calls[name](value)
        except ValueError as error:
            assert_one_sentence(error, f"{name}=")

    check()
    whole = keras_cbvit.predict_whole(model, images, np.int64(4))
    windows = keras_cbvit.predict_sliding(model, images, np.array([16, 16]), [8, 8])
    np.testing.assert_allclose(windows, whole, atol=1e-5)
    pyramid = keras_cbvit.feature_pyramid(vit, np.arange(4))
    assert len(pyramid.outputs) == 4
    names = keras_cbvit.decode_predictions(np.eye(3), ["a", "b", "c"], np.int64(1))
    assert [row[0][0] for row in names] == ["a", "b", "c"]
    assert math.isclose(names[0][0][1], 1.0)
