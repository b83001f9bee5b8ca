import contextlib

import keras
import pytest

from recipes.training.devices import distribute


@pytest.mark.parametrize("devices", [0, -1])
def test_less_than_one_device_is_refused(devices):
    with pytest.raises(ValueError, match=f"devices={devices} must be at least 1"):
        distribute(devices, 8)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_several_devices_need_tensorflow(monkeypatch, backend):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    with pytest.raises(
        ValueError, match=f"devices=2: .* KERAS_BACKEND=tensorflow, .* is {backend}"
    ):
        distribute(2, 8)


@pytest.mark.parametrize("devices", [None, 1])
def test_one_device_needs_nothing(devices):
    assert isinstance(distribute(devices, 8), contextlib.nullcontext)
