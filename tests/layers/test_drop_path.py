import keras
import numpy as np
import pytest

from keras_cbvit.layers import DropPath
from tests.compare import assert_close, assert_equal, dtype_of, to_numpy
from tests.round_trip import round_trip

ONES = np.ones((64, 3, 4), "float32")


def dropped(layer, x=ONES):
    return to_numpy(layer(x, training=True))


def test_a_sample_is_dropped_as_a_whole_or_divided_by_the_rate_of_keeping():
    y = dropped(DropPath(0.75, seed=1)).reshape(64, -1)
    assert (y == y[:, :1]).all()
    assert set(y[:, 0]) == {0.0, 4.0}


def test_samples_are_dropped_at_the_rate():
    y = dropped(DropPath(0.2, seed=1), np.ones((4000, 1, 1), "float32"))
    assert (y == 0).mean() == pytest.approx(0.2, abs=0.03)  # five standard deviations
    assert y.mean() == pytest.approx(1.0, abs=0.04)


def test_in_bfloat16_samples_are_dropped_at_the_rate_too():
    layer = DropPath(0.009, seed=1, dtype="bfloat16")
    y = dropped(layer, np.ones((40000, 1), "float32"))
    assert (y == 0).mean() == pytest.approx(0.009, abs=0.0025)


@pytest.mark.parametrize("shape", [(64,), (64, 2), (64, 2, 2, 2)])
def test_any_rank_is_dropped_per_sample(shape):
    y = dropped(DropPath(0.5, seed=1), np.ones(shape, "float32")).reshape(64, -1)
    assert (y == y[:, :1]).all()
    assert set(y[:, 0]) == {0.0, 2.0}


def test_a_seed_makes_the_draws_reproducible_and_each_call_draws_anew():
    layer, same, other = DropPath(0.5, seed=1), DropPath(0.5, seed=1), DropPath(0.5, 2)
    first, second = dropped(layer), dropped(layer)
    assert_equal(dropped(same), first)
    assert_equal(dropped(same), second)
    assert (first != second).any()
    assert (dropped(other) != first).any()


def test_nothing_is_dropped_at_inference():
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    assert_equal(DropPath(0.9)(x, training=False), x)
    assert_equal(DropPath(0.9)(x), x)


def test_nothing_is_dropped_at_a_rate_of_0():
    assert_equal(dropped(DropPath(0.0)), ONES)


def test_each_step_of_fit_draws_anew_per_sample():
    inputs = keras.Input((1,))
    x = keras.layers.Dense(1, kernel_initializer="ones")(inputs)
    model = keras.Model(inputs, DropPath(0.5, seed=0)(x))
    model.compile(keras.optimizers.SGD(0.0), loss="mean_squared_error")
    x, y = np.ones((64, 1), "float32"), np.zeros((64, 1), "float32")
    losses = model.fit(x, y, batch_size=64, epochs=4, verbose=0).history["loss"]
    kept = np.array(losses) * 64 / 4  # a kept sample is 2, its squared error 4
    assert_close(kept, kept.round(), atol=1e-4)
    assert len(set(kept)) > 1
    assert ((kept > 10) & (kept < 54)).all()


def test_it_computes_in_its_own_dtype():
    y = DropPath(0.5, dtype="mixed_bfloat16")(ONES, training=True)
    assert dtype_of(y) == "bfloat16"


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(ValueError, match=rf"rate={rate} must be at least 0 and less"):
        DropPath(rate)


def test_every_argument_comes_back_from_the_configuration():
    copy = round_trip(DropPath, rate=0.5, seed=7, name="drop", dtype="mixed_bfloat16")
    same = DropPath(0.5, seed=7, dtype="mixed_bfloat16")
    assert_equal(dropped(copy), dropped(same))
