import csv
import dataclasses
import json
import shutil
from pathlib import Path

import keras
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from recipes import machine, train
from recipes.data.folders import MissingDatasetError
from recipes.evaluation.paper_measures import ALONG
from recipes.paper import charts
from recipes.paper.__main__ import main
from recipes.paper.entries import ENTRIES
from recipes.paper.models import HEADS, MODELS
from recipes.paper.runs import Runs
from recipes.tasks import classification
from tests.recipes.test_segment import write_pictures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all entries find the models that others have trained, and the pictures."""
    folder = tmp_path_factory.mktemp("paper")
    write_pictures(folder / "camvid")
    return folder


def dataset_of(entry):
    return {"classification": "digits", "segmentation": "camvid"}[ENTRIES[entry].task]


def run(folder, entry, *options):
    folders = ["--runs", str(folder / "runs"), "--out", str(folder / "out")]
    options = [*folders, "--data-dir", str(folder), *options]
    main([entry, "--dataset", dataset_of(entry), "--smoke", *options])
    file = folder / "out" / dataset_of(entry) / f"{entry}_smoke.json"
    return json.loads(file.read_text())


@pytest.fixture
def few_heads(monkeypatch):
    """Figure 7 of two numbers of heads, which show what all of them do."""
    monkeypatch.setattr(charts, "HEADS", HEADS[:2])
    entry = ENTRIES["figure7"]
    models = dict([*entry.models.items()][:4])
    monkeypatch.setitem(ENTRIES, "figure7", dataclasses.replace(entry, models=models))


@pytest.mark.any_backend
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_runs_on_few_pictures(entry, folder, capsys, few_heads):
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
    file = folder / "out" / dataset_of(entry) / f"{entry}_smoke.png"
    with Image.open(file) as picture:
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
    with pytest.raises(SystemExit, match="a run with other settings.*precision"):
        run(folder, name, "--seeds", "0", "--precision", "mixed_bfloat16")


@pytest.mark.any_backend
def test_a_model_is_measured_as_its_log_says(folder):
    first = run(folder, "table7", "--seeds", "0")
    place = folder / "runs" / "camvid" / "mini" / "plain" / "seed_0_smoke"
    with (place / "log.csv").open() as log:
        *_, last = csv.DictReader(log)
    for name in ("mean_iou", "pixel_accuracy"):
        logged = pytest.approx(100 * float(last[f"val_{name}"]), abs=1e-9)
        assert first["rows"][0]["seeds"]["0"][name] == logged
    # Once more, of the saved model.
    kept = json.loads((place / "measures.json").read_text())
    assert len(kept["class_iou"]) == 11
    (place / "measures.json").unlink()
    assert run(folder, "table7", "--seeds", "0") == first
    assert json.loads((place / "measures.json").read_text()) == kept


@pytest.mark.any_backend
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
    monkeypatch.setattr(train, "train", None)
    monkeypatch.setattr(classification, "load_dataset", None)
    # On another machine, another day and another backend.
    monkeypatch.setattr(machine, "_cpu", lambda: "another")
    monkeypatch.setattr(keras.backend, "backend", lambda: "another")
    assert run(tmp_path, name, "--seeds", "0") == first
    with pytest.raises(SystemExit, match="a run with other settings.*precision"):
        run(tmp_path, name, "--seeds", "0", "--precision", "mixed_bfloat16")
    found = Runs(tmp_path / "runs", "digits", {"run": {"smoke": True}})
    with pytest.raises(ValueError, match="no model.keras to measure entropy"):
        found.values("cbs", "mini", 0, ["scale_mean", "entropy"])
    (tmp_path / place / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json is missing or damaged"):
        found.values("cbs_from_one", "mini", 0, ["scale_mean"])
    for text in ("{", "[]", "null"):
        (tmp_path / place / "measures.json").write_text(text)
        with pytest.raises(ValueError, match=r"measures\.json is damaged"):
            found.values("cbs_from_one", "mini", 0, ["scale_mean"])


def test_a_test_set_that_is_missing_is_missed_before_training(tmp_path, monkeypatch):
    def fail(builder, **options):
        raise ConnectionError("no internet here")

    # TFDS would try for minutes.
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    found = Runs(tmp_path / "runs", "imagenet", {"data": {"data_dir": tmp_path}})
    with pytest.raises(MissingDatasetError, match="imagenet_v2"):
        found.values("cb", "ti", 0, ["top1", "imagenet_v2"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.any_backend
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
    assert found.cost("plain", "ti")["parameters"] == 5_717_416


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
        (["table5", "--sizes", "mini"], "imagenet has no recipe for sizes='mini'"),
        (["table5", "--seeds"], "--seeds requires at least one"),
        (
            ["table7", "--dataset", "cifar10"],
            "dataset='cifar10' is for classification, but table7 is for segmentation; "
            "use one of ade20k, ade20k_40k, camvid",
        ),
        (
            ["table5", "--dataset", "camvid"],
            "dataset='camvid' is for segmentation, but table5 is for classification; "
            "use one of imagenet, cifar10, digits",
        ),
        (["table7", "--dataset", "mnist"], "'mnist' is unknown; use one of ade20k"),
        (["table7", "--sizes", "mini"], "ade20k has no recipe for sizes='mini'"),
        (
            ["table7", "--dataset", "camvid", "--epochs", "3"],
            "epochs=3 does not apply to table7.*; use --iterations",
        ),
        (
            ["table5", "--dataset", "digits", "--iterations", "3"],
            "iterations=3 does not apply to table5.*; use --epochs",
        ),
        (
            ["table7", "--dataset", "camvid", "--iterations", "300"],
            "iterations=300 must be a multiple of evaluation_iterations=200",
        ),
        (["table7", "--dataset", "camvid"], "The folder camvid does not exist"),
        (
            ["table7"],
            "deit_tiny_patch16_224.fb_in1k.* cannot be downloaded",
        ),
        (
            ["table7_curves", "--dataset", "ade20k_40k", "--sizes", "b"],
            "deit_base_patch16_224.fb_in1k.* cannot be downloaded",
        ),
    ],
)
@pytest.mark.any_backend
def test_what_cannot_run_is_refused_before_anything_is_written(
    options, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # no hub
    with pytest.raises(SystemExit, match=message):
        main(options)
    assert not list(tmp_path.iterdir())
