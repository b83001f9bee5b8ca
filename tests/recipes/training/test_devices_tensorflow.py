"""MirroredStrategy over logical CPU devices; on what, `multi_device.py` says."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from recipes.training.devices import distribute
from tests.recipes.small import read_log
from tests.recipes.training import dense

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of the runs on 1, 2 and 4 devices."""
    folder = tmp_path_factory.mktemp("multi_device")
    for devices in (2, 4):
        result = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.recipes.training.multi_device",
                str(devices),
                str(folder),
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert result.returncode == 0, result.stderr[-3000:]
    return folder


def measured(folder, run, *names):
    return np.array([[e[name] for name in names] for e in read_log(folder / run)])


LOSSES = ("loss", "val_loss", "val_ema_loss")


def test_two_devices_give_the_losses_of_one(folder):
    one, two = (measured(folder, f"{n}_devices", *LOSSES) for n in (1, 2))
    assert np.ptp(one[:, 1]) > 0.03  # there is something to agree on
    assert one[1, 2] != pytest.approx(one[1, 1], rel=1e-4)
    np.testing.assert_allclose(two, one, rtol=1e-5)


def test_two_devices_measure_the_accuracy_of_one(folder):
    one, two = (measured(folder, f"{n}_devices", "val_accuracy") for n in (1, 2))
    np.testing.assert_allclose(two, one, atol=1e-6)


def test_float16_on_two_devices_stays_near_float32(folder):
    wide, half = (measured(folder, name, *LOSSES) for name in ("2_devices", "float16"))
    assert not np.array_equal(half, wide)
    np.testing.assert_allclose(half, wide, rtol=2e-3)


def test_all_of_the_augmentation_works_on_two_devices_in_bfloat16(folder):
    # Replicas mix within themselves, so one device's losses are others.
    found = measured(folder, "augmented_2", "loss", "val_loss")
    assert np.all((found > 1.5) & (found < 2.5))
    assert found[1, 1] < found[0, 1]


def state(folder, name):
    """A `dense.state`."""
    with np.load(folder / f"{name}.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    ("case", "devices"), [*((case, 2) for case in dense.CASES), ("both", 4)]
)
def test_gradients_are_clipped_and_accumulated_over_all_devices(folder, case, devices):
    found = state(folder, f"{case}_{devices}")
    assert len(found["kernel"]) == devices
    dense.assert_as_torch(found, case, 1e-5)


@pytest.mark.parametrize("name", ["both_bfloat16", "both_float16", "clip_float16"])
def test_mixed_precision_clips_and_accumulates_over_both_devices(folder, name):
    found, case = state(folder, name), name.partition("_")[0]
    dense.assert_as_torch(found, case, 1e-2)
    assert not np.array_equal(found["kernel"], state(folder, f"{case}_2")["kernel"])


@pytest.mark.parametrize("case", ["both", "clip"])
def test_infinities_are_left_out_at_any_step_of_an_update(folder, case):
    """One on each device; the loss scale, of 2^15, is halved at each."""
    found = state(folder, f"{case}_float16")
    (scale,) = (found[name] for name in found if name.endswith("dynamic_scale"))
    assert scale.tolist() == [2**13, 2**13]


@pytest.mark.parametrize(
    "name",
    ["both_half", "both_interrupted", "both_bfloat16", "both_float16", "clip_float16"],
)
def test_the_optimizer_is_the_same_on_both_devices(folder, name):
    for path, (first, second) in state(folder, name).items():
        np.testing.assert_array_equal(first, second, err_msg=path)


def test_an_update_that_was_interrupted_goes_on_as_without(folder):
    half = state(folder, "both_half")
    sums = [half[path] for path in half if path.endswith("gradient_accumulator")]
    assert len(sums) == 2
    assert all(np.all(values != 0) for values in sums)
    found, expected = state(folder, "both_interrupted"), state(folder, "both_2")
    for name in ("kernel", "bias", "kernel_average", "bias_average"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    with pytest.raises(
        ValueError, match="global_batch_size=7 cannot be divided evenly among 2"
    ):
        distribute(2, 7)


def test_more_gpus_than_there_are_are_refused(monkeypatch):
    gpus = ["gpu"]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    with pytest.raises(ValueError, match="devices=2: this machine has 1 GPUs"):
        distribute(2, 8)


def test_more_devices_than_a_running_process_has_are_refused():
    assert len(tf.config.list_logical_devices("CPU")) == 1
    with pytest.raises(
        ValueError, match=r"devices=2: .* already running with 1 CPU devices .* new one"
    ):
        distribute(2, 8)
