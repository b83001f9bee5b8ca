from pathlib import Path

import keras
import numpy as np
import pytest

from recipes.training.schedule import WarmupCosine, WarmupPolynomial

ORACLE = Path(__file__).parents[2] / "data" / "schedule.npz"
DEIT = {
    "peak": 1e-3,
    "epochs": 300,
    "steps_per_epoch": 1251,
    "warmup_epochs": 5,
    "warmup_start": 1e-6,
    "minimum": 1e-5,
}


def rates(schedule, steps):
    return np.array([float(schedule(step)) for step in steps])


def test_each_epoch_begins_with_the_rate_of_deit():
    with np.load(ORACLE) as oracle:
        expected = oracle["epoch_lr"]
    found = rates(WarmupCosine(**DEIT), 1251 * np.arange(300))
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_within_an_epoch_the_rate_goes_on():
    schedule = WarmupCosine(**{**DEIT, "steps_per_epoch": 4})
    rise = rates(schedule, range(20))
    np.testing.assert_allclose(np.diff(rise), (1e-3 - 1e-6) / 20, rtol=1e-3)
    assert (np.diff(rates(schedule, range(20, 1200))) < 0).all()


def test_a_warm_up_of_half_an_epoch_ends_at_the_peak():
    options = {**DEIT, "steps_per_epoch": 100, "warmup_epochs": 0.5}
    found = rates(WarmupCosine(**options), range(51))
    rise = (1e-3 - 1e-6) / 50
    np.testing.assert_allclose(found[:50], 1e-6 + rise * np.arange(50), rtol=1e-4)
    assert found[50] == pytest.approx(1e-3, rel=1e-4)


def test_the_rate_ends_at_the_minimum_and_stays_there():
    schedule = WarmupCosine(**DEIT)
    found = rates(schedule, [300 * 1251, 310 * 1251, 10**6])
    np.testing.assert_allclose(found, 1e-5, rtol=1e-5)


def test_without_warm_up_the_first_rate_is_the_peak():
    schedule = WarmupCosine(**{**DEIT, "warmup_epochs": 0})
    assert float(schedule(0)) == pytest.approx(1e-3)


def test_a_schedule_comes_back_from_its_configuration():
    config = keras.optimizers.schedules.serialize(WarmupCosine(**DEIT))
    copy = keras.optimizers.schedules.deserialize(config)
    assert type(copy) is WarmupCosine
    assert copy.get_config() == DEIT


@pytest.mark.parametrize("iterations", [40_000, 160_000])
def test_segmentation_warms_up_and_decays_by_mmcvs_formula(iterations):
    steps = np.array([0, 1, 750, 1499, 1500, 20_000, iterations - 1])
    # mmcv's hooks, in float64: the decayed rate times 1 - k.
    regular = 6e-5 * (1 - steps / iterations)
    k = np.maximum(1 - steps / 1500, 0) * (1 - 1e-6)
    found = rates(WarmupPolynomial(6e-5, iterations), steps)
    np.testing.assert_allclose(found, regular * (1 - k), rtol=1e-6)


def test_the_rates_of_40_000_iterations_by_hand():
    found = rates(WarmupPolynomial(6e-5, 40_000), [0, 1500, 20_000, 39_999])
    np.testing.assert_allclose(found, [6e-11, 5.775e-5, 3e-5, 1.5e-9], rtol=1e-6)


def test_the_polynomial_ends_at_nothing_and_stays_there():
    assert rates(WarmupPolynomial(6e-5, 4000), [4000, 5000]).tolist() == [0, 0]


def test_without_warm_up_the_polynomial_begins_at_the_peak():
    schedule = WarmupPolynomial(6e-5, 4000, warmup_iterations=0, power=2.0)
    np.testing.assert_allclose(rates(schedule, [0, 2000]), [6e-5, 1.5e-5], rtol=1e-6)


def test_a_polynomial_comes_back_from_its_configuration():
    schedule = WarmupPolynomial(1e-4, 100, 10, 1e-3, 0.9)
    config = keras.optimizers.schedules.serialize(schedule)
    copy = keras.optimizers.schedules.deserialize(config)
    assert type(copy) is WarmupPolynomial
    assert copy.get_config() == schedule.get_config()
    assert list(copy.get_config().values()) == [1e-4, 100, 10, 1e-3, 0.9]
