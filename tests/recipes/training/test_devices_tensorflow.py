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
    """What the runs on 1, 2 and 4 devices leave."""
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


def losses(folder, name):
    return np.array([[e["loss"], e["val_loss"]] for e in read_log(folder / name)])


def accuracies(folder, name):
    return [e["val_accuracy"] for e in read_log(folder / name)]


@pytest.mark.parametrize("devices", [2, 4])
def test_several_devices_give_the_losses_of_one(folder, devices):
    one = losses(folder, "1_devices")
    assert np.ptp(one[:, 0]) > 0.03  # there is something to agree on
    several = losses(folder, f"{devices}_devices")
    np.testing.assert_allclose(several, one, rtol=1e-5)


@pytest.mark.parametrize("devices", [2, 4])
def test_several_devices_measure_the_accuracy_of_one(folder, devices):
    one = accuracies(folder, "1_devices")
    assert accuracies(folder, f"{devices}_devices") == pytest.approx(one, abs=1e-6)


def test_all_of_the_augmentation_works_on_two_devices(folder):
    # Replicas mix within themselves, so one device's losses are others.
    found = losses(folder, "augmented")
    assert np.all((found > 1.5) & (found < 2.5))
    assert found[1, 1] < found[0, 1]


def test_moving_averages_of_two_devices_are_those_of_one(folder):
    one, two = (
        [[e["val_ema_loss"], e["val_loss"]] for e in read_log(folder / name)]
        for name in ("averages_1", "averages_2")
    )
    np.testing.assert_allclose(two, one, rtol=1e-5)
    assert one[1][0] != pytest.approx(one[1][1], rel=1e-4)


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


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_clips_and_accumulates_over_both_devices(folder, precision):
    found = state(folder, f"both_{precision}")
    dense.assert_as_torch(found, "both", 1e-2)
    assert not np.array_equal(found["kernel"], state(folder, "both_2")["kernel"])


def test_infinities_in_the_middle_of_an_update_are_left_out(folder):
    """One on each device; the loss scale, of 2^15, is halved at each."""
    found = state(folder, "both_infinity")
    dense.assert_as_torch(found, "both", 1e-2)
    (scale,) = (found[name] for name in found if name.endswith("dynamic_scale"))
    assert scale.tolist() == [2**13, 2**13]


@pytest.mark.parametrize("name", ["half", "infinity", "bfloat16", "interrupted"])
def test_the_optimizer_is_the_same_on_both_devices(folder, name):
    for path, (first, second) in state(folder, f"both_{name}").items():
        np.testing.assert_array_equal(first, second, err_msg=path)


def test_an_update_that_was_interrupted_goes_on_as_without(folder):
    half = state(folder, "both_half")
    sums = [half[path] for path in half if path.endswith("gradient_accumulator")]
    assert len(sums) == 2
    assert all(np.all(values != 0) for values in sums)
    found, expected = state(folder, "both_interrupted"), state(folder, "both_2")
    for name in ("kernel", "bias", "kernel_average", "bias_average"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_on_two_devices_stays_near_float32(folder, precision):
    found, expected = losses(folder, precision), losses(folder, "2_devices")[:1]
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def weights_after(folder, step):
    """The values of every variable on both replicas, and the steps taken."""
    with np.load(folder / "infinite_pixel.npz") as arrays:
        values = {k.partition("/")[2]: arrays[k] for k in arrays if k.startswith(step)}
    return values, values.pop("loss"), values.pop("iterations")


@pytest.mark.parametrize("replica", [0, 1])
def test_an_infinity_on_one_replica_in_float16_changes_no_weight(folder, replica):
    before, loss, steps = weights_after(folder, "first")
    after, spoiled_loss, steps_after = weights_after(folder, f"infinite_on_{replica}")
    assert np.isfinite(loss)
    assert not np.isfinite(spoiled_loss)
    assert steps_after == steps == 1
    assert len(after) == 20
    for path, value in after.items():
        assert np.isfinite(value).all(), path
        np.testing.assert_array_equal(value, before[path], err_msg=path)


def test_after_an_infinity_training_goes_on_alike_on_both_replicas(folder):
    before, *_ = weights_after(folder, "infinite_on_1")
    after, loss, steps = weights_after(folder, "last")
    assert np.isfinite(loss)
    assert steps == 2
    for path, value in after.items():
        assert np.isfinite(value).all(), path
        assert not np.array_equal(value, before[path]), path
        np.testing.assert_array_equal(value[0], value[1], err_msg=path)


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
