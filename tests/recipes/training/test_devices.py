import contextlib

import keras
import pytest

from recipes.training.devices import distribute


@pytest.mark.parametrize("devices", [0, -1])
def test_less_than_one_device_is_refused(devices):
    with pytest.raises(ValueError, match=f"devices={devices} must be at least 1"):
        distribute(devices, 8)


def test_torch_takes_one_device(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="devices=2: .* the backend is torch"):
        distribute(2, 8)


@pytest.mark.parametrize("devices", [None, 1])
def test_one_device_needs_nothing(devices):
    assert isinstance(distribute(devices, 8), contextlib.nullcontext)
