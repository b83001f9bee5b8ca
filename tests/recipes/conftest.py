"""A finished run for those who only look at it; and what not to collect."""

import keras
import pytest

from keras_cbvit.pretrained.sources import PLACE_VARIABLE
from recipes.train import train
from tests.recipes.small import small

NAME = "vitcb_tests.digits"

# What needs TensorFlow is not collected on the other backends, which have none.
collect_ignore = []
if keras.backend.backend() != "jax":
    collect_ignore += ["training/test_devices_jax.py"]
if keras.backend.backend() != "tensorflow":
    collect_ignore += [
        "data/test_sources_tensorflow.py",
        "data/test_tf_data.py",
        "training/test_devices_tensorflow.py",
        "training/test_hand_over_tensorflow.py",
    ]


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The experiment of a run with random depth that is finished and published."""
    folder = tmp_path_factory.mktemp("finished")
    experiment = small(
        folder / "run",
        depth=2,
        report=True,
        drop_path_rate=0.5,
        publish=NAME,
        weights_dir=folder / "weights",
    )
    train(experiment, "python -m recipes.train some options")
    return experiment


@pytest.fixture
def published_digits(finished, monkeypatch):
    """The name of the weights that this run published, which can be loaded by it."""
    monkeypatch.setenv(PLACE_VARIABLE, str(finished.run.weights_dir))
    return NAME
