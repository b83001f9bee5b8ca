"""Arguments of the builders: a model that is right, or one sentence."""

import json
import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_cbvit
from keras_cbvit.models.arguments import count_weights
from tests.hostile import IS_FAST, Evil, assert_one_sentence, hostile
from tests.tiny import TINY, predict, tiny

SMALL = {**TINY, "depth": 1, "input_shape": (4, 8, 3)}
VALID = {
    "input_shape": st.sampled_from([(4, 8, 3), [8, 4, 3], np.array([4, 4, 3])]),
    "patch_size": st.sampled_from([4, np.int8(2), np.array(1)]),
    "hidden_dim": st.sampled_from([8, np.int64(16), np.uint8(12)]),
    "depth": st.sampled_from([1, np.int16(2), 3]),
    "num_heads": st.sampled_from([1, np.int64(2), 4]),
    "mlp_ratio": st.sampled_from([1, 2.5, np.float32(0.5), np.float16(3)]),
    "broadcast": st.sampled_from([None, "cb", np.str_("cbs")]),
    "broadcast_place": st.sampled_from(
        ["mlp_end", "mlp_front", "mlp_mid", "msa_end", "both"]
    ),
    "broadcast_blocks": st.sampled_from(["all", "upper", [0], np.arange(1), range(1)]),
    "context": st.sampled_from(["mean", "max", "token"]),
    "drop_path_rate": st.sampled_from([0, 0.5, np.float32(0.25)]),
    "remat": st.sampled_from([True, np.False_]),
    "include_preprocessing": st.sampled_from([True, np.bool_(False)]),
    "include_top": st.just(np.True_),
    "pooling": st.sampled_from(["token", "avg"]),
    "classes": st.sampled_from([2, np.int64(5), np.array([0, 4, 2]).max() + 1]),
    "classifier_activation": st.sampled_from(
        [None, "softmax", "sigmoid", keras.activations.relu]
    ),
    "dtype": st.sampled_from(
        [None, "float32", "mixed_bfloat16", np.dtype("float32"), "float64"]
    ),
    "name": st.sampled_from([None, "a", "a.b-c_1", np.str_("b")]),
}


def check_model(model, arguments):
    """Its shapes are those of its arguments, and its configuration builds it again."""
    config = model.get_config()
    assert model.output_shape == (None, int(arguments["classes"]))
    assert model.input_shape[1:] == tuple(map(int, arguments["input_shape"]))
    assert model.count_params() == count_weights(config)
    text = json.dumps(keras.saving.serialize_keras_object(model))
    copy = keras.saving.deserialize_keras_object(json.loads(text))
    assert copy.get_config() == config
    assert copy.output_shape == model.output_shape
    shapes = [(w.path, tuple(w.shape)) for w in model.weights]
    assert [(w.path, tuple(w.shape)) for w in copy.weights] == shapes


@settings(max_examples=30 if IS_FAST else 5)
@given(st.fixed_dictionaries({}, optional=VALID))
def test_valid_arguments_make_a_model_that_is_right(given_arguments):
    arguments = {**SMALL, **given_arguments}
    try:
        model = keras_cbvit.ViTCB(**arguments)
    except ValueError as error:  # the arguments do not go together
        assert_one_sentence(error, *given_arguments)
        pairs = [
            arguments["hidden_dim"] % arguments["num_heads"],
            *(side % arguments["patch_size"] for side in arguments["input_shape"][:2]),
        ]
        assert any(pairs)
    else:
        check_model(model, arguments)


@settings(max_examples=150 if IS_FAST else 60)
@given(data=st.data())
def test_any_argument_makes_a_model_or_one_sentence_that_names_it(data):
    name = data.draw(st.sampled_from([*VALID, "weights", "allow_other_function"]))
    arguments = {**SMALL, name: data.draw(hostile)}
    try:
        model = keras_cbvit.ViTCB(**arguments)
    except (ValueError, FileNotFoundError) as error:
        assert_one_sentence(error, f"{name}=")
        return
    if model.get_config()["include_top"]:
        check_model(model, arguments)
    assert np.isfinite(predict(model)).all()


@pytest.mark.parametrize("name", [*VALID, "weights", "allow_other_function"])
def test_a_value_with_which_nothing_can_be_done_is_refused(name):
    with pytest.raises(ValueError) as error:
        keras_cbvit.ViTCB(**{**SMALL, name: Evil()})
    assert_one_sentence(error.value, f"{name}=")


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
    ],
)
def test_weights_are_counted_before_anything_is_built(depth, changes):
    model = tiny(depth=depth, **changes)
    assert count_weights(model.get_config()) == model.count_params()


@pytest.mark.parametrize(
    "large, message",
    [
        ({"depth": 10**9}, "depth=1000000000 must be a whole number of at most 1000"),
        ({"depth": 1001}, "depth=1001 must be a whole number of at most 1000"),
        ({"hidden_dim": 10**12}, "hidden_dim=1000000000000 must be .* of at most"),
        (
            {"hidden_dim": 10**6},
            r"hidden_dim=1000000, .* 1\.6e\+13 weights, 6\.4e",
        ),
        ({"depth": 1000, "hidden_dim": 10**5}, r"depth=1000, .* GB; this machine"),
        ({"input_shape": (4 * 10**6, 4 * 10**6, 3)}, "input_shape=.* GB; this machine"),
        ({"mlp_ratio": 1e300}, "mlp_ratio=1e.300 makes more than 10000000 hidden"),
        ({"classes": 10**400}, "classes=10.* must be a whole number of at most"),
    ],
)
def test_what_no_memory_holds_is_refused_before_it_is_built(large, message):
    with pytest.raises(ValueError, match=message):
        tiny(**large)


def test_numbers_of_numpy_and_of_the_backend_are_pythons_in_the_configuration():
    labels = np.array([0, 2, 1])
    tensor = keras.ops.convert_to_tensor(labels)
    expected = tiny().get_config()
    for classes in (labels.max() + 1, np.array(3), keras.ops.max(tensor) + 1):
        model = tiny(classes=classes, mlp_ratio=np.float32(2), remat=np.False_)
        assert model.get_config() == expected
        assert type(model.get_config()["classes"]) is int
        assert predict(model).shape == (4, 3)
    with pytest.raises(ValueError, match="classes=.* must be a whole number of at"):
        tiny(classes=labels)


@pytest.mark.parametrize(
    "activation, name",
    [(keras.activations.softmax, "softmax"), (keras.ops.sigmoid, "sigmoid")],
)
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


# What takes a model.


@pytest.fixture(scope="module")
def backbone():
    vit = tiny(depth=4, input_shape=(16, 16, 3))
    return keras_cbvit.feature_pyramid(vit, (0, 1, 2, 3))


def test_upernet_takes_numpys_numbers_and_refuses_others(backbone):
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


def test_blocks_windows_and_other_numbers_are_checked_alike(backbone):
    vit = tiny(depth=4)
    model = keras_cbvit.SegmentationModel(backbone, 3, 2)
    images = np.zeros((1, 16, 16, 3), "float32")
    calls = {
        "blocks": lambda value: keras_cbvit.feature_pyramid(vit, value),
        "channels": lambda value: keras_cbvit.with_auxiliary_head(model, value),
        "divisor": lambda value: keras_cbvit.predict_whole(model, images, value),
        "window": lambda value: keras_cbvit.predict_sliding(model, images, value),
        "stride": lambda value: keras_cbvit.predict_sliding(
            model, images, (16, 16), value
        ),
        "ablation": lambda value: keras_cbvit.ablations.ablate(
            tiny(broadcast="none"), value
        ),
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
