import json
import types

import keras
import pytest

from recipes.benchmark import profile as benchmark
from recipes.benchmark.__main__ import main
from recipes.benchmark.profiler import own_times

pytestmark = pytest.mark.slow

BACKEND = keras.backend.backend()


def event(name, start, duration, *stats):
    return types.SimpleNamespace(
        name=name, start_ns=1e9 * start, duration_ns=1e9 * duration, stats=stats
    )


def test_an_operation_s_time_is_without_what_it_calls():
    times = own_times(
        [
            event("a thread", 0, 100),
            event("while/body:MatMul", 6, 2),
            event("model/call:While", 5, 10),
            event("model/dense:MatMul", 20, 3),
            event("fusion.12", 30, 4, ("hlo_op", "fusion.12")),
            event("copy.3", 31, 1, ("hlo_op", "copy.3")),
            event("Executor::Run", 0, 90),
        ]
    )
    assert times == {"While": 8, "MatMul": 5, "fusion": 3, "copy": 1}


def test_a_model_s_operations_are_printed_with_their_shares(
    tmp_path, capsys, monkeypatch
):
    if BACKEND == "tensorflow":
        pytest.importorskip("jax", reason="its traces are read by JAX")
    ours = {benchmark.CB: benchmark.MODELS[benchmark.CB]}
    monkeypatch.setattr(benchmark, "MODELS", ours)
    file = tmp_path / "profile.json"
    small = ["--image-size", "32", "--batch-size", "2", "--steps", "1"]
    main(["profile", "--backends", BACKEND, *small, "--json", str(file)])
    printed = capsys.readouterr().out
    (run,) = json.loads(file.read_text())["runs"]
    # The products of dense layers are in every profile.
    product = {"jax": "dot", "torch": "aten::addmm", "tensorflow": "MatMul"}[BACKEND]
    for work in ("inference", "training"):
        assert f"**{BACKEND}, {work}**" in printed
        operations = run[work][benchmark.CB]
        assert min(operations.values()) > 0
    assert any(product in name for name in run["training"][benchmark.CB])
    shares = [
        int(line.rpartition("|")[0].rpartition("|")[2].strip().rstrip("%"))
        for line in printed.splitlines()
        if line.startswith("| `")
    ]
    assert 0 < max(shares) < 100


def test_no_steps_are_refused():
    with pytest.raises(SystemExit, match="steps=0 must be at least 1"):
        main(["profile", "--steps", "0"])
