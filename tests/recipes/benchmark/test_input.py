import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from recipes.benchmark import input as benchmark
from recipes.benchmark.__main__ import main
from recipes.benchmark.peer import Peer
from tests.recipes.printed import without_padding

pytestmark = [pytest.mark.any_backend, pytest.mark.slow]

FAST = ["--images", "4", "--batch-size", "4", "--repeats", "2", "--image-size", "32"]

# A peer that prepares 8 images per second, of which it needs none.
PEER = f"""#!{sys.executable}
import json, sys
if sys.argv[-1] != "timm":
    print(json.dumps({{"missing": "No module named 'keras_cv'"}}))
    sys.exit()
setup = json.loads(sys.stdin.readline())
assert len(setup["files"]) == 3 and setup["image_size"] == 32, setup
print(json.dumps({{"versions": {{"timm": "1.2.3"}}}}), flush=True)
for line in sys.stdin:
    print(int(line) / 8, flush=True)
"""


@pytest.fixture
def pictures(tmp_path):
    """A folder of three small pictures."""
    random = np.random.default_rng(0)
    for name in ("a/1.jpg", "a/2.png", "b/3.JPEG"):
        file = tmp_path / "pictures" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (40, 48, 3), dtype="uint8")
        Image.fromarray(pixels).save(file)
    return tmp_path / "pictures"


@pytest.fixture
def no_peers(tmp_path, monkeypatch):
    """An environment that has none of the peers, also where they are installed."""
    for package in ("torchvision", "timm", "keras_cv"):
        file = tmp_path / "absent" / package / "__init__.py"
        file.parent.mkdir(parents=True)
        file.write_text(f"raise ImportError('no {package} here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "absent"))


def program(tmp_path, text):
    file = tmp_path / "python"
    file.write_text(text)
    file.chmod(0o755)
    return str(file)


def table(printed):
    lines = without_padding(printed).splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines]
    return {row[0]: row[1:] for row in rows if len(row) == 5}


def test_input_is_measured_beside_its_peers_and_missing_ones_are_named(
    pictures, no_peers, tmp_path, capsys
):
    file, python = tmp_path / "result.json", program(tmp_path, PEER)
    options = [*FAST, "--peer-python", python, "--json", str(file)]
    main(["input", "--data-dir", str(pictures), *options])
    printed = capsys.readouterr().out
    rows = table(printed)
    assert list(rows)[1:] == [benchmark.OURS, benchmark.OURS_ONE_COPY, "timm"]
    assert rows["timm"] == ["8", "8", "8", "1.00"]
    assert float(rows[benchmark.OURS_ONE_COPY][-1]) > 0
    assert "- timm: timm 1.2.3" in printed
    why = "no keras_cv here; No module named 'keras_cv'"
    assert f"- KerasCV: skipped ({why})" in printed

    result = json.loads(file.read_text())
    assert result["cpu"] and result["cores"] >= 1
    assert result["files"] == 3
    assert result["images_per_repeat"] == 4
    assert set(result["skipped"]) == {"KerasCV", benchmark.OURS_TF_DATA}
    assert "keras" in result["versions"][benchmark.OURS]
    for row in result["images_per_second"].values():
        assert set(row) == {"median", "min", "max", "ratio_to_timm", "all"}
        assert 0 < row["min"] <= row["median"] <= row["max"]
        assert len(row["all"]) == 2


def test_a_peer_of_no_environment_is_skipped(pictures, no_peers, capsys, monkeypatch):
    peers = {title: benchmark.PEERS[title] for title in ("timm", "KerasCV")}
    monkeypatch.setattr(benchmark, "PEERS", peers)
    main(["input", "--data-dir", str(pictures), *FAST])
    printed = capsys.readouterr().out
    assert re.search(r"- timm: skipped \(.*torch.*\)", printed)  # timm needs it
    assert "- KerasCV: skipped (no keras_cv here)" in printed


def test_a_peer_that_breaks_is_an_error_with_its_last_words(
    pictures, no_peers, tmp_path, monkeypatch
):
    broken = {benchmark.OURS_TF_DATA: benchmark.PEERS[benchmark.OURS_TF_DATA]}
    monkeypatch.setattr(benchmark, "PEERS", broken)
    python = program(tmp_path, "#!/bin/sh\necho 'out of workers' >&2\nexit 1\n")
    with pytest.raises(
        SystemExit, match="The process of tf_data exited: out of workers"
    ):
        main(["input", "--data-dir", str(pictures), *FAST, "--peer-python", python])


def test_so_it_is_if_a_peer_ends_before_it_is_asked(tmp_path, monkeypatch):
    class Ended(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.wait()

    monkeypatch.setattr(subprocess, "Popen", Ended)
    python = program(tmp_path, "#!/bin/sh\necho 'out of workers' >&2\nexit 1\n")
    with pytest.raises(
        ChildProcessError, match="The process of timm exited: out of workers"
    ):
        Peer("recipes.benchmark.input_peers", "timm", {}, python)


def test_ratios_are_of_the_same_repeat():
    rows = benchmark.summary({"timm": [1.0, 10.0, 4.0], "other": [2.0, 20.0, 4.0]})
    assert rows["other"]["ratio_to_timm"] == 2
    assert rows["other"]["median"] == 4
    assert rows["timm"]["ratio_to_timm"] == 1
    assert benchmark.summary({"other": [2.0]})["other"]["ratio_to_timm"] is None


def test_an_empty_folder_is_one_clear_sentence(tmp_path):
    with pytest.raises(SystemExit, match="contains no images, that is, files"):
        main(["input", "--data-dir", str(tmp_path)])


@pytest.mark.parametrize("option", ["--images", "--repeats", "--batch-size"])
def test_numbers_must_be_positive(option, pictures):
    with pytest.raises(SystemExit, match="=0 must be at least 1"):
        main(["input", "--data-dir", str(pictures), option, "0"])


def test_unknown_benchmarks_are_refused_by_name(capsys):
    with pytest.raises(SystemExit):
        main(["speed"])
    message = capsys.readouterr().err
    assert "speed" in message and "input, feed, model, profile" in message
