import json
import sys

import keras
import pytest

from recipes.benchmark import model as benchmark
from recipes.benchmark.__main__ import main

pytestmark = [pytest.mark.slow, pytest.mark.any_backend]

BACKEND = keras.backend.backend()
FAST = ["--backends", BACKEND, "--image-sizes", "32", "--batch-sizes", "2"]
FAST += ["--steps", "1", "--repeats", "2"]

# Peers that take a second for 4 images: KerasHub's DeiT, and timm, which is twice as
# fast at training. The others are not there.
PEER = f"""#!{sys.executable}
import json, sys
name = sys.argv[-1]
setup = json.loads(sys.stdin.readline())
wanted = name in ("timm", "matmul") or setup.get("model") == "DeiT"
if not wanted or setup.get("compiled"):
    print(json.dumps({{"missing": "No module named " + name}}))
    sys.exit()
assert setup["size"] == "Ti" and setup["precision"] == "float32", setup
print(json.dumps({{"versions": {{"peer": "1.2.3"}}}}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    seconds = setup["steps"] * setup["batch_size"] / 4
    if name == "timm" and request["do"] == "training":
        seconds /= 2
    print(json.dumps({{"first": 9, "seconds": seconds, "memory": 3 << 20}}), flush=True)
"""


@pytest.fixture
def peers(tmp_path, monkeypatch):
    """An environment with some peers; in this one they are absent."""
    for package in ("keras_hub", "kimm", "timm", "torchvision"):
        file = tmp_path / "absent" / package / "__init__.py"
        file.parent.mkdir(parents=True)
        file.write_text(f"raise ImportError('no {package} here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "absent"))
    file = tmp_path / "python"
    file.write_text(PEER)
    file.chmod(0o755)
    return str(file)


def test_models_are_measured_beside_their_peers(peers, tmp_path, capsys):
    others = (*benchmark.KERAS_PEERS, *benchmark.TORCH_PEERS)
    models = ["--models", benchmark.CB, *others]  # each of ours takes long to compile
    file, picture = tmp_path / "result.json", tmp_path / "bars.png"
    files = ["--json", str(file), "--figure", str(picture)]
    main(["model", *FAST, *models, "--peer-python", peers, *files])
    printed = capsys.readouterr().out
    rows = {}
    for line in printed.splitlines():
        title, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[title] = cells
    assert f"**ViT-Ti/16 on {BACKEND}**, 32×32, batch 2, float32" in printed
    assert rows["KerasHub DeiT"][0:2] == ["4.0 (4.0–4.0)", "1.00"]
    assert rows["KerasHub DeiT"][8:] == ["3 MiB", "3 MiB", "9.0 s", "9.0 s"]
    has_timm = BACKEND == "torch"
    assert ("timm" in rows) == has_timm
    if has_timm:
        assert rows["timm"][0:3] == ["4.0 (4.0–4.0)", "1.00", "1.00"]
        assert rows["timm"][4:7] == ["8.0 (8.0–8.0)", "2.00", "1.00"]
    why = "no kimm here; No module named kimm"
    assert f"- kimm on {BACKEND}: skipped ({why})" in printed
    assert picture.stat().st_size > 5000

    (run,) = json.loads(file.read_text())["runs"]
    assert run["ceiling"] > 0
    for work in ("inference", "training"):
        measured = run["models"][benchmark.CB][work]
        assert len(measured["images_per_second"]) == 2
        assert min(measured["images_per_second"]) > 0
        assert measured["first_step_seconds"] > 0
        assert measured["memory_bytes"] > 0


def test_ratios_are_of_the_same_repeat():
    def measured(*values):
        return {"inference": {"images_per_second": values}}

    models = {
        "kimm": measured(1.0, 10.0, 4.0),
        "KerasHub ViT": measured(2.0, 30.0, 3.0),
    }
    assert benchmark.ratio(models, "KerasHub ViT", "kimm", "inference") == 2
    assert benchmark.best_keras_peer(models, "inference") == "kimm"
    assert benchmark.best_keras_peer({}, "inference") is None


@pytest.mark.parametrize("size, macs", [("Ti", 1.254), ("S", 4.599), ("B", 17.564)])
def test_multiply_accumulates_are_those_of_the_paper_s_models(size, macs):
    # In billions, as tests/data/sizes.json has them.
    assert benchmark.matmul_macs(size, 224) / 1e9 == pytest.approx(macs, abs=5e-4)


def test_the_share_of_the_ceiling_counts_a_gradient_as_two_passes():
    run = {"size": "Ti", "image_size": 224, "ceiling": 2 * 1.2538e9 * 100}
    shares = [
        benchmark._share_of_ceiling(run, [10.0, 20.0, 90.0], work)
        for work in benchmark.WORK
    ]
    assert shares == ["20%", "60%"]


@pytest.mark.parametrize("option", ["--steps", "--repeats"])
def test_numbers_must_be_positive(option):
    with pytest.raises(SystemExit, match="=0 must be at least 1"):
        main(["model", option, "0"])
