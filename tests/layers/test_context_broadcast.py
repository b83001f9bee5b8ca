import keras
import numpy as np
import pytest
from keras import ops

from keras_cbvit.layers import ContextBroadcast
from tests.compare import assert_close, assert_equal, dtype_of, to_numpy
from tests.gradients import gradients
from tests.round_trip import round_trip

CONTEXTS = ("mean", "max", "token")
# One image of three tokens of two channels: mean (4, 30), max (8, 60).
X = np.array([[[0.0, 10.0], [4.0, 20.0], [8.0, 60.0]]], "float32")


def with_scale(scale, **arguments):
    """A CB_S layer with this Λ."""
    layer = ContextBroadcast(scale=True, **arguments)
    layer.build((None, None, len(scale)))
    layer.channel_scale.assign(scale)
    return layer


def brute_force(x, mask, context, scale=None):
    """What the layer gives, token by token; `mask` has the axes `(batch, tokens)`."""
    y = x.copy()
    for image in range(len(x)):
        counting = x[image][mask[image]]
        if not len(counting) or (context == "token" and not mask[image, 0]):
            continue
        c = {
            "mean": counting.mean(axis=0),
            "max": counting.max(axis=0),
            "token": x[image, 0],
        }[context]
        for token in np.flatnonzero(mask[image]):
            value = x[image, token]
            y[image, token] = (value + c) / 2 if scale is None else value + scale * c
    return y


@pytest.mark.parametrize(
    "context, expected",
    [
        ("mean", [[2, 20], [4, 25], [6, 45]]),
        ("max", [[4, 35], [6, 40], [8, 60]]),
        ("token", [[0, 10], [2, 15], [4, 35]]),
    ],
)
def test_cb_is_half_the_token_and_half_the_context(context, expected):
    assert_equal(ContextBroadcast(context=context)(X), [expected])


@pytest.mark.parametrize(
    "context, expected",
    [
        ("mean", [[2, -20], [6, -10], [10, 30]]),
        ("max", [[4, -50], [8, -40], [12, 0]]),
        ("token", [[0, 0], [4, 10], [8, 50]]),
    ],
)
def test_cbs_adds_the_context_weighted_per_channel(context, expected):
    layer = with_scale([0.5, -1.0], context=context)
    assert_equal(layer(X), [expected])


def test_cbs_starts_as_the_identity():
    layer = ContextBroadcast(scale=True)
    assert_equal(layer(X), X)
    assert layer.channel_scale.shape == (2,)


@pytest.mark.parametrize("axis, axis_of_numpy", [(1, 1), (2, 2), (-2, 2), (-3, 1)])
def test_any_axis_between_batch_and_channels_may_count_the_tokens(axis, axis_of_numpy):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    expected = 0.5 * x + 0.5 * x.mean(axis=axis_of_numpy, keepdims=True)
    assert_close(ContextBroadcast(axis=axis)(x), expected, atol=1e-6)


@pytest.mark.parametrize("scale", [False, True])
def test_the_number_of_tokens_may_be_unknown(scale):
    inputs = keras.Input((None, 2))
    model = keras.Model(inputs, ContextBroadcast(scale=scale)(inputs))
    assert model.output_shape == (None, None, 2)
    for tokens in (1, 5):
        x = np.random.default_rng(0).normal(size=(3, tokens, 2)).astype("float32")
        expected = x if scale else 0.5 * x + 0.5 * x.mean(axis=1, keepdims=True)
        assert_close(model.predict(x, verbose=0), expected, atol=1e-6)


@pytest.mark.parametrize("context", CONTEXTS)
def test_cb_of_one_token_is_the_identity(context):
    x = np.random.default_rng(0).normal(size=(2, 1, 3)).astype("float32")
    assert_equal(ContextBroadcast(context=context)(x), x)


# Masks.


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("scale", [None, [0.5, -2.0, 3.0]])
def test_masked_tokens_neither_count_nor_change(context, scale):
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    mask = np.array(
        [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]], bool
    )
    layer = with_scale(scale or [0] * 3, context=context)
    if scale is None:
        layer = ContextBroadcast(context=context)
    y = layer(x, mask=mask)
    assert_close(y, brute_force(x, mask, context, scale), atol=1e-6)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("garbage", [1e30, -np.inf, np.nan])
def test_what_a_masked_token_holds_changes_nothing_else(context, garbage):
    mask = np.array([[True, True, False]])
    x = X.copy()
    x[0, 2] = garbage
    y = ContextBroadcast(context=context)(x, mask=mask)
    assert_equal(y, brute_force(x, mask, context))


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_mask_may_be_of_more_axes_than_the_tokens(context):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4, 5)).astype("float32")  # (batch, frames, tokens, c)
    mask = rng.uniform(size=(2, 3, 4)) < 0.6
    y = ContextBroadcast(context=context, axis=2)(x, mask=mask)
    expected = [brute_force(*pair, context) for pair in zip(x, mask, strict=True)]
    assert_close(y, expected, atol=1e-6)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("scale", [False, True])
def test_a_fully_masked_row_passes_its_gradient_through_and_adds_none_to_the_scale(
    context, scale
):
    layer = with_scale([0.5, -1.0], context=context)
    if not scale:
        layer = ContextBroadcast(context=context)
    mask = np.zeros((1, 3), bool)
    weight = np.arange(6, dtype="float32").reshape(1, 3, 2)
    (of_x,), of_scale = gradients(
        lambda x: ops.sum(ops.multiply(weight, layer(x, mask=mask))),
        X,
        variables=layer.trainable_variables,
    )
    assert_equal(of_x, weight)
    assert_equal(of_scale, [[0.0, 0.0]] if scale else [])


def test_the_mask_of_a_masking_layer_is_honoured_and_passed_on():
    x = np.array([[[0.0, 10.0], [4.0, 20.0], [0.0, 0.0]]], "float32")
    inputs = keras.Input((None, 2))
    x_masked = keras.layers.Masking(mask_value=0.0)(inputs)
    y = ContextBroadcast()(x_masked)
    # Its output is masked as well: the average is that of the two first tokens.
    model = keras.Model(inputs, [y, keras.layers.GlobalAveragePooling1D()(y)])
    tokens, average = model.predict(x, verbose=0)
    assert_equal(tokens, [[[1, 12.5], [3, 17.5], [0, 0]]])
    assert_equal(average, [[2, 15]])


# Precision.


@pytest.mark.parametrize("masked", [False, True])
def test_float16_means_do_not_overflow(masked):
    x = np.full((1, 4096, 1), 100.0, "float16")  # their sum is over 65504
    mask = np.ones((1, 4096), bool) if masked else None
    y = ContextBroadcast(dtype="float16")(x, mask=mask)
    assert dtype_of(y) == "float16"
    assert_equal(to_numpy(y), x)


@pytest.mark.parametrize("masked", [False, True])
def test_bfloat16_means_do_not_lose_small_tokens_beside_a_large_one(masked):
    # In 8 bits 512 + 1 is 512, one 1 after the other: the mean would be 0.125.
    x = np.ones((1, 4096, 1), "float32")
    x[0, 0] = 512.0
    mask = np.ones((1, 4096), bool) if masked else None
    y = ContextBroadcast(dtype="bfloat16")(ops.cast(x, "bfloat16"), mask=mask)
    assert dtype_of(y) == "bfloat16"
    # The mean is 4607 / 4096 = 1.1248, in bfloat16 1.125.
    assert_equal(to_numpy(y)[0, 1:], 0.5 + 0.5 * 1.125)


def test_only_the_mean_is_wide_under_mixed_precision():
    layer = with_scale([0.5, -1.0], dtype="mixed_bfloat16")
    y = layer(X)
    assert layer.channel_scale.dtype == "float32"
    assert dtype_of(y) == "bfloat16"
    assert_equal(to_numpy(y), [[[2, -20], [6, -10], [10, 30]]])


# Learning.


def test_the_gradient_of_cb_goes_half_to_the_token_and_half_to_all():
    weight = np.array([[[1.0, 0.0], [2.0, 0.0], [6.0, 3.0]]], "float32")
    layer = ContextBroadcast()
    (of_x,), _ = gradients(lambda x: ops.sum(ops.multiply(weight, layer(x))), X)
    assert_close(of_x, [[[2, 0.5], [2.5, 0.5], [4.5, 2]]], atol=1e-6)


def test_the_scale_learns_from_zero():
    layer = ContextBroadcast(scale=True)
    layer.build(X.shape)
    _, (of_scale,) = gradients(
        lambda: ops.sum(layer(X)), variables=layer.trainable_variables
    )
    assert_close(of_scale, [3 * 4, 3 * 30])  # three tokens, the mean


def test_the_regularizer_of_the_scale_is_a_loss():
    layer = with_scale([1.0, 2.0], scale_regularizer=keras.regularizers.L2(0.5))
    layer(X)
    assert_close(sum(layer.losses), 0.5 * (1 + 4))


def test_the_initializer_of_the_scale_is_used():
    layer = ContextBroadcast(scale=True, scale_initializer=keras.initializers.Ones())
    assert_equal(layer(X), X + np.array([4, 30]))


# Arguments.


def test_every_argument_comes_back_from_the_configuration():
    copy = round_trip(
        ContextBroadcast,
        scale=True,
        context="max",
        axis=-2,
        scale_initializer=keras.initializers.Constant(0.25),
        scale_regularizer=keras.regularizers.L1(0.5),
        name="broadcast",
        dtype="mixed_bfloat16",
    )
    x = np.zeros((1, 2, 3, 4), "float32")
    copy(x)
    assert_equal(copy.channel_scale, [0.25] * 4)
    assert_close(sum(copy.losses), 0.5 * 4 * 0.25)


def test_an_unknown_context_is_refused_with_the_known_ones():
    message = r"context='median' is unknown; use one of 'mean', 'max', 'token'\."
    with pytest.raises(ValueError, match=message):
        ContextBroadcast(context="median")


@pytest.mark.parametrize(
    "axis, shape",
    [
        (0, (2, 3, 4)),
        (-1, (2, 3, 4)),
        (2, (2, 3, 4)),
        (-3, (2, 3, 4)),
        (5, (2, 3, 4)),
        (1, (2, 4)),
    ],
)
def test_an_axis_that_does_not_count_tokens_is_refused(axis, shape):
    with pytest.raises(ValueError, match=rf"axis={axis} is not a token axis"):
        ContextBroadcast(axis=axis)(np.zeros(shape, "float32"))


@pytest.mark.parametrize("axis", [(1, 2), 1.0, True, None])
def test_an_axis_that_is_not_one_number_is_refused(axis):
    with pytest.raises(ValueError, match=r"axis=.* must be a whole number; to"):
        ContextBroadcast(axis=axis)


def test_inputs_of_another_rank_than_the_first_are_refused():
    layer = ContextBroadcast(axis=2)
    layer(np.zeros((1, 2, 3, 4), "float32"))
    with pytest.raises(ValueError, match="expected ndim=4, found ndim=3"):
        layer(np.zeros((1, 2, 3), "float32"))


def test_integers_are_broadcast_in_the_compute_dtype():
    y = ContextBroadcast()(np.array([[[0], [3]]], "int32"))
    assert_equal(y, [[[0.75], [2.25]]])
