"""The benchmark of the runtimes measures exports, and shows what it measured."""

import json

import keras
import numpy as np
import pytest

from keras_cbvit.export import quantization
from keras_cbvit.models import registry
from recipes.benchmark import runtimes
from recipes.benchmark.__main__ import main
from recipes.data.images import Split

pytestmark = [pytest.mark.any_backend, pytest.mark.slow]


def test_latencies_and_differences_are_measured(tmp_path, capsys, monkeypatch):
    size = {"hidden_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 32}
    monkeypatch.setitem(registry._models, "vitcb_toy", size)
    options = ["--models", "vitcb_toy", "--formats", "torch", "--repeats", "2"]
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
    assert "| vitcb_toy | torch " in printed.replace("  ", " ").replace("  ", " ")


def test_classes_are_compared_on_the_test_images(monkeypatch):
    """Of any precision; the labels here are of a class that the model never gives."""
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), "uint8")
    test = Split(images, np.full(8, -1))
    cifar10 = images[:4].astype("float32"), test
    monkeypatch.setattr(runtimes.Runtimes, "_cifar10", lambda _: cifar10)
    monkeypatch.setattr(runtimes, "PRECISIONS", ("float32",))
    monkeypatch.setattr(quantization, "QUANTIZERS", {"torch": None})
    name = "vitcb_mini.cifar10"
    versions = {}
    (found,) = runtimes.Runtimes(classifiers=(name,))._accuracies(versions)
    assert versions["keras"] == keras.__version__
    assert (found["model"], found["format"]) == (name, "torch")
    assert (found["top1"], found["agreement"]) == (0, 1)
