"""Table 7: what is of segmentation alone. `test_paper.py` runs its entries, too."""

import dataclasses
import importlib
import json

import keras
import pytest

from recipes import train
from recipes.paper import runs as of_paper
from recipes.paper.__main__ import main
from recipes.paper.runs import Runs
from recipes.tasks import segmentation
from recipes.training import run_folder
from tests.recipes.printed import without_padding

pytestmark = pytest.mark.slow

MODELS = {"plain": ("none", "vit"), "cb": ("cb", "vitcb"), "cbs": ("cbs", "vitcbs")}


@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_trained_as_on_the_command_line(model, tmp_path, monkeypatch):
    broadcast, family = MODELS[model]
    runs = Runs(tmp_path, "camvid", {"data": {"data_dir": str(tmp_path)}})
    experiment = runs.experiment(model, "mini", 1)
    options = ["--weights", f"{family}_mini.cifar10", "--broadcast", broadcast]
    options += [
        "--seed",
        "1",
        "--run-dir",
        str(tmp_path / f"camvid/mini/{model}/seed_1"),
    ]
    options += ["--data-dir", str(tmp_path), "--no-report"]
    asked = []
    monkeypatch.setattr(train, "train", lambda experiment, _: asked.append(experiment))
    train.main(["camvid_mini", *options])
    assert asked == [experiment]


@pytest.mark.parametrize("size, rate", [("ti", 0.0), ("s", 0.05), ("b", 0.1)])
@pytest.mark.parametrize("dataset", ["ade20k", "ade20k_40k", "camvid"])
def test_the_sizes_of_the_paper_start_from_imagenet(dataset, size, rate, tmp_path):
    config = importlib.import_module(f"recipes.configs.{dataset}").config()
    runs = Runs(tmp_path, dataset, {})
    for model, (broadcast, family) in MODELS.items():
        experiment = runs.experiment(model, size, 0)
        assert experiment.network == dataclasses.replace(
            config.network,
            model=f"upernet_{family}_{size}",
            weights=f"{family}_{size}.imagenet",
            broadcast=broadcast,
            drop_path_rate=rate,
        )
        for group in ("data", "augmentation", "training"):
            assert getattr(experiment, group) == getattr(config, group)


@pytest.mark.any_backend
def test_parameters_are_counted_without_weights_that_nobody_has_published(tmp_path):
    # Of docs/segmentation.md, and those of the same network in PyTorch.
    assert Runs(tmp_path, "ade20k", {}).cost("plain", "ti") == {
        "parameters": 10_399_254
    }


def test_weights_of_the_last_model_are_missed_before_the_first_is_trained(
    tmp_path, monkeypatch
):
    def locate(name):
        if name != "vit_mini.cifar10":
            raise ValueError(f"there is no {name}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(segmentation, "locate", locate)
    with pytest.raises(SystemExit, match=r"there is no vitcb_mini\.cifar10"):
        main(["table7", "--dataset", "camvid"])
    assert not list(tmp_path.iterdir())


COLUMNS = (
    "epoch,auxiliary_loss,loss,predictions_loss,val_mean_iou,val_pixel_accuracy,"
    "learning_rate,images_per_second,data_wait,broken_images"
)


def written_elsewhere(folder, model, mean_iou):
    """The text files of a run of two epochs of the log, on any backend."""
    runs = Runs(folder / "runs", "camvid", {"training": {"iterations": 400}})
    experiment = runs.experiment(model, "mini", 0)
    run_folder.claim(runs.task, experiment, "recipes.train")
    log = [COLUMNS, "0,1.5,2.5,2.0,0.125,0.5,1e-3,8,0,0", "1,1,2,1.75,0.25,0.5,0,8,0,0"]
    (experiment.run.folder / "log.csv").write_text("\n".join(log) + "\n")
    measures = {"mean_iou": mean_iou, "pixel_accuracy": 50.0, "class_iou": [None] * 11}
    (experiment.run.folder / "measures.json").write_text(json.dumps(measures))


@pytest.mark.any_backend
def test_what_was_measured_elsewhere_is_printed_from_text_files(
    tmp_path, monkeypatch, capsys
):
    for model, mean_iou in (("plain", 25.0), ("cb", 26.5), ("cbs", 24.0)):
        written_elsewhere(tmp_path, model, mean_iou)
    monkeypatch.setattr(of_paper, "train", None)
    monkeypatch.setattr(segmentation, "load_pairs", None)
    monkeypatch.setattr(keras.backend, "backend", lambda: "another")
    folders = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    options = ["--dataset", "camvid", "--iterations", "400", "--seeds", "0", *folders]
    main(["table7", *options])
    lines = without_padding(capsys.readouterr().out).splitlines()
    assert lines[0] == "**Table 7: semantic segmentation, UperNet**, camvid"
    head = "| Model | Size | Parameters | mean IoU, % | over plain, points | "
    assert head + "pixel accuracy, % | over plain, points |" in lines
    assert "| plain | mini | 528,107 | 25.00 | – | 50.00 | – |" in lines
    assert "| CB | mini | 528,107 | 26.50 | +1.50 | 50.00 | +0.00 |" in lines
    assert "| CB_S | mini | 528,491 | 24.00 | -1.00 | 50.00 | +0.00 |" in lines
    assert any(line.startswith("The paper, on ADE20K: mean IoU of") for line in lines)
    made = "Seed 0. 400 iterations in batches of 8, crops of 176×176 pixels, tested "
    assert any(line.startswith(made) for line in lines)
    main(["table7_curves", *options])
    lines = without_padding(capsys.readouterr().out).splitlines()
    at = lines.index("By epoch of 200 iterations, training loss:")
    assert lines[at + 2] == "| Model | 1 | 2 |"
    assert lines[at + 4] == "| plain, mini | 2.5000 | 2.0000 |"
    at = lines.index("By epoch of 200 iterations, test mean IoU, %:")
    assert lines[at + 5] == "| CB, mini | 12.5000 | 25.0000 |"
    with pytest.raises(SystemExit, match=r"iterations=400, not 1600"):
        main(["table7", "--dataset", "camvid", "--seeds", "0", *folders])
