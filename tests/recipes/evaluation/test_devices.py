"""Several devices measure what one does."""

import json
import os
import subprocess
import sys

import keras
import pytest

from recipes import evaluate
from tests.recipes.evaluation.trained import classifier

pytestmark = pytest.mark.slow

CONDITIONS = ["clean", "occlusion", "fgsm", "pgd"]


@pytest.fixture
def arguments(tmp_path):
    """Of the command, by the number of devices; the batches do not divide 360."""
    classifier().save(tmp_path / "model.keras")
    return lambda devices: [
        str(tmp_path / "model.keras"),
        *("--on", "digits", "--under", *CONDITIONS, "--epsilons", "8"),
        *("--batch-size", "128", "--devices", str(devices)),
        *("--json", str(tmp_path / f"{devices}.json")),
    ]


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="takes one device")
def test_two_devices_measure_what_one_does(arguments, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "recipes.evaluate", *arguments(2)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        timeout=900,
    )
    evaluate.main(arguments(1))
    one, two = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (1, 2))
    assert [row["under"] for row in two] == CONDITIONS
    assert [row["images"] for row in two] == [360] * 4
    for measure in ("right", "top5", "loss", "ece"):
        found = [row[measure] for row in two]
        assert found == pytest.approx([row[measure] for row in one], rel=1e-4)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="takes several devices")
def test_torch_takes_one_device(arguments):
    with pytest.raises(SystemExit, match="devices=2: Keras trains on several devices"):
        evaluate.main(arguments(2))
