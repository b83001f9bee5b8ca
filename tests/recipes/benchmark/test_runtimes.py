"""The benchmark of the runtimes measures exports, and shows what it measured."""

import json

import keras
import pytest

from keras_cbvit.models import registry
from recipes.benchmark.__main__ import main


@pytest.mark.slow
def test_latencies_and_differences_are_measured(tmp_path, capsys, monkeypatch):
    own = {"torch": "torch", "tensorflow": "saved_model", "jax": "stablehlo"}
    format = own[keras.backend.backend()]
    size = {"hidden_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 32}
    monkeypatch.setitem(registry._models, "vitcb_toy", size)
    options = ["--models", "vitcb_toy", "--formats", format, "--repeats", "2"]
    file = tmp_path / "runtimes.json"
    main(["runtimes", *options, "--classifiers", "--json", str(file)])
    printed = capsys.readouterr().out
    (found,) = json.loads(file.read_text())["latencies"]
    assert found["difference"] < 1e-5
    assert {batch: len(all) for batch, all in found["seconds"].items()} == {
        "1": 2,
        "32": 2,
    }
    assert 0 < found["seconds"]["1"][0] < 30
    assert f"| vitcb_toy | {format} " in printed.replace("  ", " ").replace("  ", " ")
