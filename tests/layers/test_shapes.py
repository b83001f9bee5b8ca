"""Every layer on inputs of any rank: one shape however it is asked for, or an error.

`hypothesis` draws the shapes. A layer is called with an array, is called with a tensor
that has no values yet, and is asked by `compute_output_shape`.
"""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_cbvit import layers
from keras_cbvit.layers.token_dense import TokenDense

CHANNELS = 4
# Where each new shape is compiled, few are tried.
EXAMPLES = 20 if keras.backend.backend() == "torch" else 3

# What makes a layer, and the ranks it takes; None for any from 2 on.
ONE_INPUT = {
    "AdaptiveAveragePooling": (lambda: layers.AdaptiveAveragePooling(2), {4}),
    "ContextBroadcast": (layers.ContextBroadcast, {3, 4, 5}),
    "ContextBroadcast with scale": (lambda: layers.ContextBroadcast(True), {3, 4, 5}),
    "ContextBroadcast, axis 2": (lambda: layers.ContextBroadcast(axis=2), {4, 5}),
    "ConvBNReLU": (lambda: layers.ConvBNReLU(5, 3), {4}),
    "DropPath": (lambda: layers.DropPath(0.5), {1, 2, 3, 4, 5}),
    "EncoderBlock": (lambda: layers.EncoderBlock(2, 6), {3}),
    "FCNHead": (lambda: layers.FCNHead(3, 5), {4}),
    "LayerScale": (layers.LayerScale, {2, 3, 4, 5}),
    "MLP": (lambda: layers.MLP(5), {2, 3, 4, 5}),
    "MLP with CB": (lambda: layers.MLP(5, end=layers.ContextBroadcast()), {3, 4, 5}),
    "MLP with CB and more": (
        lambda: layers.MLP(5, end=[layers.ContextBroadcast(), layers.LayerScale()]),
        {3, 4, 5},
    ),
    "MultiHeadSelfAttention": (lambda: layers.MultiHeadSelfAttention(2), {3}),
    "PatchEmbedding": (lambda: layers.PatchEmbedding(2, 5), {4}),
    "PyramidPooling": (lambda: layers.PyramidPooling(5), {4}),
    "Residual": (lambda: layers.Residual(layers.MLP(5)), {3}),
    "SqueezeExcitation": (layers.SqueezeExcitation, {3}),
    "SynchronizedBatchNormalization": (
        layers.SynchronizedBatchNormalization,
        {2, 3, 4, 5},
    ),
    "TokenDense": (lambda: TokenDense(5), {2, 3, 4, 5}),
    "TokenPooling": (lambda: layers.TokenPooling("avg"), {3}),
    "UniformHeadSelfAttention": (lambda: layers.UniformHeadSelfAttention(2, 3), {3}),
}
SLOW = {"PyramidPooling", "FCNHead"} if EXAMPLES == 3 else set()

shapes = st.lists(st.integers(1, 4), max_size=4).map(lambda s: (*s, CHANNELS))


def outcome(shape_of):
    """A shape or list of shapes as plain tuples, or "refused" in one sentence."""
    try:
        found = shape_of()
    except ValueError as error:
        # Keras puts its own words around what is said while a layer is called.
        assert len(str(error).partition("Arguments received")[0]) < 400
        return "refused"
    is_list = isinstance(found, list)
    return [tuple(s) for s in found] if is_list else tuple(found)


def shapes_of(outputs):
    if isinstance(outputs, list):
        return [output.shape for output in outputs]
    return outputs.shape


def outcomes(make, *inputs):
    """What each of the three ways gives, for shapes or lists of shapes."""

    def arrays():
        x = keras.tree.map_shape_structure(lambda s: np.ones(s, "float32"), inputs)
        return shapes_of(make()(*x))

    def symbolic():
        x = keras.tree.map_shape_structure(keras.KerasTensor, inputs)
        return shapes_of(make()(*x))

    return [
        outcome(arrays),
        outcome(symbolic),
        outcome(lambda: make().compute_output_shape(*inputs)),
    ]


@pytest.mark.parametrize("name", sorted(ONE_INPUT.keys() - SLOW))
@settings(max_examples=EXAMPLES)
@given(shape=shapes)
def test_a_layer_gives_one_shape_or_an_error(name, shape):
    make, ranks = ONE_INPUT[name]
    called, symbolic, computed = outcomes(make, shape)
    assert called == symbolic == computed
    divides = name != "PatchEmbedding" or not any(side % 2 for side in shape[1:3])
    assert (called != "refused") == (len(shape) in ranks and divides)


@pytest.mark.parametrize("name", sorted(ONE_INPUT.keys() - SLOW))
@settings(max_examples=EXAMPLES)
@given(shape=shapes, data=st.data())
def test_unknown_sizes_are_known_where_they_can_be(name, shape, data):
    make, _ = ONE_INPUT[name]
    whole = outcome(lambda: make().compute_output_shape(shape))
    unknown = data.draw(st.sets(st.integers(0, max(len(shape) - 2, 0))))
    part = tuple(None if i in unknown else side for i, side in enumerate(shape))
    symbolic = outcome(lambda: make()(keras.KerasTensor(part)).shape)
    computed = outcome(lambda: make().compute_output_shape(part))
    assert symbolic == computed
    if "refused" not in (whole, symbolic):
        assert len(symbolic) == len(whole)
        assert all(a in (None, b) for a, b in zip(symbolic, whole, strict=True))


@pytest.mark.parametrize("name", sorted(ONE_INPUT))
def test_channels_have_to_be_known_where_there_are_weights(name):
    make, ranks = ONE_INPUT[name]
    shape = (2,) * (max(ranks) - 1) + (None,)
    try:
        output = make()(keras.KerasTensor(shape))
    except ValueError as error:
        assert len(str(error)) < 500
    else:
        assert output.shape[-1] is None or name in ("TokenPooling",)


@pytest.mark.parametrize("name", sorted(ONE_INPUT.keys() - SLOW))
def test_a_built_layer_takes_no_other_channels(name):
    make, ranks = ONE_INPUT[name]
    layer = make()
    if not layer.built or not layer.weights:
        layer(np.ones((2,) * (max(ranks) - 1) + (CHANNELS,), "float32"))
    if not layer.trainable_weights:
        return
    other = (2,) * (max(ranks) - 1) + (CHANNELS + 2,)
    assert outcome(lambda: layer(np.ones(other, "float32")).shape) == "refused"
    assert outcome(lambda: layer(keras.KerasTensor(other)).shape) == "refused"


TWO_INPUTS = {
    "TokenEmbedding": lambda: layers.TokenEmbedding(2, (2, 1)),
    "TokenEmbedding with registers": lambda: layers.TokenEmbedding(
        2, (2, 1), 2, prefix_position_embedding=False
    ),
    "ResizeLike": layers.ResizeLike,
    "TokenMap": lambda: layers.TokenMap(2),
}
# Sizes that often fit each other.
second = st.lists(st.sampled_from([1, 2, 4]), max_size=4).map(lambda s: (2, *s))


@pytest.mark.parametrize("name", TWO_INPUTS)
@settings(max_examples=3 * EXAMPLES)
@given(first=shapes | st.just((2, 2, CHANNELS)), like=second)
def test_a_layer_of_two_inputs_gives_one_shape_or_an_error(name, first, like):
    first = (2, *first[1:]) if len(first) > 1 else first
    called, symbolic, computed = outcomes(TWO_INPUTS[name], first, like)
    assert called == symbolic == computed
    ranks = (4, 4) if name == "ResizeLike" else (3, 4)
    if (len(first), len(like)) != ranks:
        assert called == "refused"
    elif name == "ResizeLike":
        assert called == (2, *like[1:3], CHANNELS)
    else:
        tokens = first[1] - (name == "TokenMap")
        fits = tokens == (like[1] // 2) * (like[2] // 2)
        fits &= not (like[1] % 2 or like[2] % 2)
        assert (called != "refused") == fits


@pytest.mark.skipif(EXAMPLES == 3, reason="Compiles long; the check is in Python.")
@settings(max_examples=EXAMPLES)
@given(st.lists(st.lists(st.integers(2, 4), min_size=2, max_size=4), max_size=5))
def test_layers_of_several_maps_give_one_shape_or_an_error(sides):
    maps = [(2, *side[1:], CHANNELS) for side in sides]
    for make, number in (
        (layers.FeatureScales, 4),
        (lambda: layers.UperHead(3, 5), len(maps) or 1),
    ):
        called, symbolic, computed = outcomes(make, maps)
        assert called == symbolic == computed
        fits = len(maps) == number and all(len(shape) == 4 for shape in maps)
        assert (called != "refused") == fits
