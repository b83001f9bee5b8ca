"""Arguments of the layers: a layer that works and comes back, or one sentence."""

import inspect
import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_cbvit import layers
from keras_cbvit.arguments import format_value
from keras_cbvit.layers.token_dense import TokenDense
from tests.hostile import IS_FAST, Evil, assert_one_sentence, hostile

TOKENS, MAP = (2, 4, 6), (2, 4, 4, 3)
# What each layer is called with, and its arguments with a value of NumPy that it takes.
LAYERS = {
    layers.AdaptiveAveragePooling: ([MAP], {"bins": np.int64(2)}),
    layers.ContextBroadcast: (
        [TOKENS],
        {
            "scale": np.True_,
            "context": np.str_("max"),
            "axis": np.int64(1),
            "scale_initializer": "ones",
            "scale_regularizer": "l2",
        },
    ),
    layers.ConvBNReLU: ([MAP], {"channels": np.int64(2), "kernel_size": np.int32(3)}),
    layers.DropPath: ([TOKENS], {"rate": np.float32(0.5), "seed": np.int64(3)}),
    layers.EncoderBlock: (
        [TOKENS],
        {
            "num_heads": np.int64(2),
            "mlp_dim": np.int64(5),
            "drop_path_rate": np.float32(0.25),
            "remat": np.False_,
            "epsilon": np.float32(1e-3),
            "attention": None,
            "msa_end": None,
            "mlp_front": None,
            "mlp_mid": None,
            "mlp_end": None,
            "activation": np.str_("quick_gelu"),
        },
    ),
    layers.FCNHead: (
        [MAP],
        {
            "classes": np.int64(3),
            "channels": np.uint8(2),
            "dropout_rate": np.float32(0.25),
        },
    ),
    layers.LayerScale: ([TOKENS], {"initial_value": np.float32(0.5)}),
    layers.MLP: (
        [TOKENS],
        {
            "hidden_dim": np.int64(5),
            "front": None,
            "mid": None,
            "end": None,
            "activation": np.str_("swiglu"),
        },
    ),
    layers.MultiHeadSelfAttention: (
        [TOKENS],
        {
            "num_heads": np.int64(3),
            "qkv_bias": np.False_,
            "qk_norm": np.True_,
            "epsilon": np.float32(1e-3),
        },
    ),
    layers.PatchEmbedding: (
        [MAP],
        {"patch_size": np.int64(2), "hidden_dim": np.int64(5)},
    ),
    layers.PyramidPooling: ([MAP], {"channels": np.int64(2)}),
    layers.Residual: (
        [TOKENS],
        {"branch": layers.MLP(5), "epsilon": np.float64(1e-3)},
    ),
    layers.SqueezeExcitation: ([TOKENS], {"ratio": np.int64(2)}),
    layers.TokenEmbedding: (
        [TOKENS, MAP],
        {
            "patch_size": np.int8(2),
            "grid": np.array([1, 3]),
            "num_register_tokens": np.int64(2),
            "prefix_position_embedding": np.False_,
            "class_token": np.False_,
            "distillation_token": np.True_,
        },
    ),
    layers.TokenMap: (
        [(2, 5, 6), MAP],
        {"patch_size": np.int64(2), "num_prefix_tokens": np.int64(1)},
    ),
    layers.TokenPooling: (
        [TOKENS],
        {"pooling": np.str_("avg"), "num_prefix_tokens": np.int64(2)},
    ),
    layers.UniformHeadSelfAttention: (
        [TOKENS],
        {"num_heads": np.int64(2), "head_dim": np.int64(3)},
    ),
    layers.UperHead: (
        [[MAP, MAP]],
        {
            "classes": np.int64(3),
            "channels": np.int64(2),
            "dropout_rate": np.float32(0.25),
        },
    ),
    TokenDense: ([TOKENS], {"units": np.int64(5)}),
}
NAMES = {kind.__name__: kind for kind in LAYERS}


def check_layer(kind, arguments):
    """It can be called, and its configuration makes the same layer again."""
    shapes, _ = LAYERS[kind]
    x = keras.tree.map_shape_structure(lambda s: np.ones(s, "float32"), shapes)
    layer = kind(**arguments)
    try:
        shape = layer(*x).shape
    except ValueError as error:  # what does not go together with the inputs
        assert len(str(error).partition("Arguments received")[0]) < 400
        assert any(f"{name}=" in str(error) for name in arguments), str(error)
        return None
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    copy = keras.saving.deserialize_keras_object(config)
    assert copy(*x).shape == shape
    assert json.dumps(copy.get_config()) == json.dumps(layer.get_config())
    return layer


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.any_backend
def test_numpys_numbers_are_taken_and_are_pythons_in_the_configuration(name):
    kind = NAMES[name]
    _, arguments = LAYERS[kind]
    layer = check_layer(kind, arguments)
    config = layer.get_config()
    own = set(inspect.signature(kind).parameters) - {"kwargs"}
    assert own == arguments.keys()
    for argument in arguments:
        assert not isinstance(config[argument], np.generic | np.ndarray)
    if not IS_FAST:
        return
    for argument in arguments:
        if arguments[argument] is not None:
            with pytest.raises(ValueError) as error:
                kind(**{**arguments, argument: Evil()})
            assert_one_sentence(error.value, f"{argument}=")


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30 if IS_FAST else 3)
@given(data=st.data())
def test_any_argument_makes_a_layer_or_one_sentence_that_names_it(name, data):
    kind = NAMES[name]
    _, arguments = LAYERS[kind]
    argument = data.draw(st.sampled_from(sorted(arguments)))
    arguments = {**arguments, argument: data.draw(hostile)}
    try:
        kind(**arguments)
    except ValueError as error:
        assert_one_sentence(error, f"{argument}=")
    else:
        check_layer(kind, arguments)


def test_a_value_is_shown_on_one_short_line():
    for value, expected in (
        ("a", "'a'"),
        (np.int64(3), "np.int64(3)"),
        ([1, "a"], "[1, 'a']"),
        (np.array([[1, 2], [3, 4]]), "array([[1, 2], [3, 4]])"),
        (10**5000, "<int>"),
        (Evil(), None),
        ("x" * 10_000, None),
        ([["y" * 99] * 99] * 99, None),
        (np.zeros((99, 99)), None),
    ):
        text = format_value(value)
        assert expected in (None, text)
        assert 0 < len(text) <= 80 and "\n" not in text
