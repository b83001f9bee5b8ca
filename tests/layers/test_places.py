"""Places of a block, at which layers are put."""

import keras
import numpy as np
import pytest

from keras_cbvit.layers import MLP, ContextBroadcast, EncoderBlock, LayerScale
from keras_cbvit.layers.places import layers_at
from tests.compare import assert_close, to_numpy

ONE, TWO = LayerScale(), ContextBroadcast()


@pytest.mark.parametrize(
    "value, expected",
    [
        (None, ()),
        (ONE, (ONE,)),
        ([], ()),
        ([ONE, TWO], (ONE, TWO)),
        ((TWO, ONE), (TWO, ONE)),
    ],
)
def test_layers_are_one_several_or_none(value, expected):
    assert layers_at("mlp_end", value) == expected


@pytest.mark.parametrize("value", [3, "cb", [ONE, None], {ONE}, [[ONE]], LayerScale])
def test_anything_else_is_refused(value):
    with pytest.raises(ValueError, match="mlp_end=.* must be a keras.layers.Layer"):
        EncoderBlock(2, 4, mlp_end=value)


@pytest.mark.parametrize("place", ["msa_end", "mlp_front", "mlp_mid", "mlp_end"])
def test_a_layer_that_makes_another_shape_is_refused_at_any_place(place):
    block = EncoderBlock(2, 6, **{place: [LayerScale(), keras.layers.Flatten()]})
    with pytest.raises(ValueError, match="must keep the shape of its inputs"):
        block(np.zeros((2, 3, 4), "float32"))


def test_a_built_layer_comes_back_with_its_weights_paths():
    layer = MLP(6, mid=[ContextBroadcast(True)], end=[LayerScale(), ONE], name="mlp")
    layer.build((None, 3, 4))
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert [w.path for w in copy.weights] == [w.path for w in layer.weights]


def test_what_keras_does_around_a_call_is_done_where_it_is_needed():
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    losses = []
    for regularizer in (None, keras.regularizers.L2(0.5)):
        end = LayerScale(2.0, activity_regularizer=regularizer)
        layer = MLP(6, end=end)
        y = to_numpy(layer(x))
        losses.append([to_numpy(loss) for loss in layer.losses])
    assert losses[0] == []
    # Keras 3.12 does not divide by the batch.
    reference = keras.layers.Identity(activity_regularizer=regularizer)
    reference(y)
    assert_close(losses[1], to_numpy(reference.losses[0])[None], atol=1e-7)
    assert losses[1][0] > 0


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "float64"])
def test_a_layer_of_another_dtype_computes_in_its_own(dtype):
    x = np.full((1, 2, 1), 1 / 3, "float32")
    layer = MLP(1, end=LayerScale(1.0, dtype=dtype))
    layer.build(x.shape)
    layer.fc2.kernel.assign([[0.0]])
    layer.fc2.bias.assign([1 / 3])
    expected = 0.333984375 if dtype == "mixed_bfloat16" else np.float32(1 / 3)
    y = to_numpy(layer(x))
    assert_close(y.astype("float64"), np.full((1, 2, 1), expected), atol=1e-8)


@pytest.mark.parametrize("place", ["msa_end", "mlp_front", "mlp_mid", "mlp_end"])
def test_a_block_stays_in_its_own_dtype_whatever_is_at_a_place(place):
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    block = EncoderBlock(
        2,
        6,
        **{place: [keras.layers.Rescaling(2.0), LayerScale()]},
        dtype="mixed_bfloat16",
    )
    assert keras.backend.standardize_dtype(block(x).dtype) == "bfloat16"
