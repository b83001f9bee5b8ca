"""The reference numbers of `tests/data`, computed in float64 by PyTorch and timm."""

import gc
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import settings

# The same examples in every run, however slow the machine.
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.load_profile("same")
DATA = Path(__file__).parent / "data"


def pytest_collection_modifyitems(items):
    """What is the same on every backend runs on torch, which has nothing to compile."""
    if keras.backend.backend() != "torch":
        elsewhere = pytest.mark.skip(reason="the same on every backend; runs on torch")
        for item in items:
            if item.get_closest_marker("any_backend"):
                item.add_marker(elsewhere)


def pytest_collection_finish():
    """What was imported stays, so that no collection of garbage looks at it again.

    Keras collects at every weight that it quantizes, and tracing makes Python collect,
    which takes 6 % of the time unless it is seldom.
    """
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """Nor does one look at what earlier files have left, which grows to a second."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Every test, its fixtures before it, starts from the same random numbers."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def oracle():
    """Results of PyTorch and timm in float64 for a small ViT, by name."""
    with np.load(DATA / "vit.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def timm_state(oracle):
    """The state dict of that ViT."""
    return {
        name.removeprefix("weight/"): array
        for name, array in oracle.items()
        if name.startswith("weight/")
    }


@pytest.fixture(scope="session")
def oracle_arguments():
    """The arguments that build that ViT."""
    return {
        "input_shape": (32, 48, 3),
        "patch_size": 8,
        "hidden_dim": 48,
        "depth": 4,
        "num_heads": 3,
        "classes": 7,
        "include_preprocessing": False,
        "classifier_activation": None,
    }
