"""No test of weights sees the user's cache, their variables or the real `weights/`."""

import pytest

from keras_cbvit.pretrained import sources
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


@pytest.fixture(scope="session")
def trained():
    """A model with an optimizer and a generator of random numbers."""
    model = tiny(depth=1, drop_path_rate=0.5)
    train(model)
    return model
