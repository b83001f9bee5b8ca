import json
import shutil
from pathlib import Path

import keras
import pytest
from PIL import Image

from recipes import machine
from recipes.data.sources import MissingDatasetError
from recipes.paper import runs
from recipes.paper.__main__ import main
from recipes.paper.entries import ENTRIES
from recipes.paper.measures import ALONG
from recipes.paper.models import MODELS
from recipes.paper.runs import Runs

BACKEND = keras.backend.backend()
# Each model takes TensorFlow and JAX long to compile; torch runs them all.
SMOKE = list(ENTRIES) if BACKEND == "torch" else ["figure6"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all entries find the models that others have trained."""
    return tmp_path_factory.mktemp("paper")


def run(folder, entry, *options):
    folders = ["--runs", str(folder / "runs"), "--out", str(folder / "out")]
    main([entry, "--dataset", "digits", "--smoke", *folders, *options])
    return json.loads((folder / "out" / "digits" / f"{entry}_smoke.json").read_text())


@pytest.mark.parametrize("entry", SMOKE)
def test_every_entry_runs_on_the_digits(entry, folder, capsys):
    result = run(folder, entry, "--seeds", "0")
    assert [row["title"] for row in result["rows"]] == list(ENTRIES[entry].models)
    for row in result["rows"]:
        for values in row["seeds"].values():
            assert values.keys() == set(result["measures"])
            # The network of the digits has 4 blocks, a smoke run 2 epochs.
            for measure, value in values.items():
                if measure in ALONG:
                    assert len(value) == {"block": 4, "epoch": 2}[ALONG[measure]]
    printed = capsys.readouterr().out
    assert ENTRIES[entry].title in printed
    assert all(f"| {row['title']}" in printed for row in result["rows"])
    with Image.open(folder / "out" / "digits" / f"{entry}_smoke.png") as picture:
        assert picture.width > 300


def test_a_model_is_trained_once_and_refused_for_other_settings(folder, capsys):
    name = "figure6"
    first = run(folder, name, "--seeds", "0")
    capsys.readouterr()
    (measures,) = (folder / "runs").glob("digits/mini/cbs/seed_0_smoke/measures.json")
    measures.unlink()
    model = measures.with_name("model.keras")
    written = model.stat().st_mtime_ns
    assert run(folder, name, "--seeds", "0")["rows"] == first["rows"]
    assert model.stat().st_mtime_ns == written
    assert "Epoch" not in capsys.readouterr().err
    with pytest.raises(SystemExit, match="holds a run with other settings.*precision"):
        run(folder, name, "--seeds", "0", "--precision", "mixed_bfloat16")


def test_what_was_measured_is_printed_again_from_text_files_alone(
    folder, tmp_path, monkeypatch
):
    name = "figure6"
    first = run(folder, name, "--seeds", "0")
    for each in ("cbs", "cbs_from_one"):
        place = Path("runs", "digits", "mini", each, "seed_0_smoke")
        (tmp_path / place).mkdir(parents=True)
        for file in ("config.json", "log.csv", "measures.json"):
            shutil.copy(folder / place / file, tmp_path / place / file)
    monkeypatch.setattr(runs, "train", None)
    monkeypatch.setattr(runs, "load_dataset", None)
    # On another machine, another day and another backend.
    monkeypatch.setattr(machine, "_cpu", lambda: "another")
    monkeypatch.setattr(keras.backend, "backend", lambda: "another")
    assert run(tmp_path, name, "--seeds", "0") == first
    with pytest.raises(SystemExit, match="holds a run with other settings.*precision"):
        run(tmp_path, name, "--seeds", "0", "--precision", "mixed_bfloat16")
    found = Runs(tmp_path / "runs", "digits", {"run": {"smoke": True}})
    with pytest.raises(ValueError, match="no model.keras to measure entropy of"):
        found.values("cbs", "mini", 0, ["scale_mean", "entropy"])
    (tmp_path / place / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json is missing or damaged"):
        found.values("cbs_from_one", "mini", 0, ["scale_mean"])
    (tmp_path / place / "measures.json").write_text("{")
    with pytest.raises(ValueError, match=r"measures\.json is damaged"):
        found.values("cbs_from_one", "mini", 0, ["scale_mean"])


def test_a_test_set_that_is_missing_is_missed_before_training(tmp_path):
    found = Runs(tmp_path / "runs", "imagenet", {"data": {"data_dir": tmp_path}})
    with pytest.raises(MissingDatasetError, match="imagenet_v2"):
        found.values("cb", "ti", 0, ["top1", "imagenet_v2"])
    assert not (tmp_path / "runs").exists()


def test_a_recipe_trains_the_models_of_the_paper(tmp_path):
    found = Runs(tmp_path, "imagenet", {"training": {"epochs": 3}})
    experiment = found.experiment("cb_upper", "s", 5)
    network = experiment.network
    assert (network.hidden_dim, network.depth, network.num_heads) == (384, 12, 6)
    assert (network.broadcast, network.broadcast_blocks) == ("cb", "upper")
    assert (experiment.training.epochs, experiment.run.seed) == (3, 5)
    assert experiment.training.global_batch_size == 1024
    assert experiment.augmentation.rand_augment == 9
    assert experiment.run.folder == tmp_path / "imagenet" / "s" / "cb_upper" / "seed_5"
    # As large as one with 192 * 4 hidden channels: 12 blocks of 192 channels.
    assert found.build("plain", "ti").count_params() == 5_717_416


def test_every_model_of_an_entry_is_known():
    assert {name for entry in ENTRIES.values() for name in entry.models.values()} == (
        MODELS.keys()
    )


def test_the_list_names_every_entry(capsys):
    main(["list"])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == list(ENTRIES)
    assert "Front, Mid, End" in printed[list(ENTRIES).index("table5")]


@pytest.mark.parametrize(
    "options, message",
    [
        (["table99"], "entry='table99' is unknown; use one of table1"),
        (["table5", "--dataset", "mnist"], "dataset='mnist' is unknown; use one of im"),
        (["table5", "--sizes", "xl"], "sizes='xl' is unknown"),
        (["table5", "--sizes", "mini"], "'mini' does not go with imagenet"),
        (["table5", "--seeds"], "seeds must have at least one"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
    options, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        main(options)
    assert not list(tmp_path.iterdir())
