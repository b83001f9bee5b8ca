"""No test of weights sees the user's cache, their variables or the real `weights/`."""

import pytest
from huggingface_hub import constants

from keras_cbvit.pretrained import deit, sources
from tests.tiny import tiny, train


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory, monkeypatch):
    """What is `weights/` to a test."""
    folder = tmp_path_factory.mktemp("own")
    monkeypatch.setattr(sources, "own_folder", lambda: folder)
    monkeypatch.delenv("KERAS_CBVIT_WEIGHTS", raising=False)
    return folder


@pytest.fixture(autouse=True)
def keras_home(tmp_path_factory, monkeypatch):
    """Where the cache of a test is."""
    folder = tmp_path_factory.mktemp("keras")
    monkeypatch.setenv("KERAS_HOME", str(folder))
    return folder


@pytest.fixture(autouse=True)
def hub_cache(tmp_path_factory, monkeypatch):
    """Where the hub's cache of a test is; the hub itself is nowhere."""
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    return folder


@pytest.fixture(autouse=True)
def no_deit(monkeypatch):
    """DeiT's weights are not among those of a test, unless it asks for them."""
    monkeypatch.setattr(deit.DeiT, "records", lambda _: {})


@pytest.fixture(scope="session")
def trained():
    """A model with an optimizer and a generator of random numbers."""
    model = tiny(depth=1, drop_path_rate=0.5)
    train(model)
    return model
