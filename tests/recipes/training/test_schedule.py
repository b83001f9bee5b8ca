from pathlib import Path

import keras
import numpy as np
import pytest

from recipes.training.schedule import WarmupCosine

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
