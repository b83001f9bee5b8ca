import json
import zipfile

import pytest

from keras_cbvit import Evaluation
from recipes.evaluation import segmenters
from recipes.evaluation.segmenters import data_of
from recipes.options.segmentation import Data

DATA = {
    "dataset": "camvid",
    "data_dir": None,
    "train_split": "train",
    "test_split": "val",
    "class_names": ["sky", "road"],
    "ignored_label": 11,
    "scale": [360, 480],
    "image_size": [64, 64],
}
NOTHING = {"dataset": None, "data_dir": None, "test_split": None}


def run_with(folder, config):
    """A run folder of a configuration; the model's file is not read."""
    with zipfile.ZipFile(folder / "model.keras", "w"):
        pass
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_the_data_of_a_run_are_those_of_its_configuration(tmp_path):
    run = run_with(tmp_path, {"experiment": {"data": DATA}})
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in DATA.items()}
    assert data_of(run, NOTHING) == Data(**tuples | {"train_split": "val"})


@pytest.mark.parametrize(
    "config",
    [
        None,
        [],
        {},
        {"experiment": None},
        {"experiment": {"data": []}},
        {"experiment": {"data": {"dataset": "digits"}}},
        {"experiment": {"data": DATA | {"class_names": "sky"}}},
        {"experiment": {"data": DATA | {"class_names": [1, 2]}}},
        {"experiment": {"data": DATA | {"scale": 360}}},
        {"experiment": {"data": DATA | {"scale": [1, 2, 3]}}},
        {"experiment": {"data": DATA | {"ignored_label": "11"}}},
        {"experiment": {"data": DATA | {"more": 1}}},
    ],
)
def test_another_configuration_is_refused(tmp_path, config):
    message = r"config\.json was not written by a segmentation run \(.+\)\.$"
    with pytest.raises(ValueError, match=message) as caught:
        data_of(run_with(tmp_path, config), NOTHING)
    assert len(str(caught.value)) < 400


def measured_as(options):
    return Evaluation(
        task="segmentation",
        dataset="./camvid",
        split="val",
        metrics={"mean_iou": 0.5},
        images=5,
        command="none",
        options=options,
    )


OPTIONS = {key: DATA[key] for key in ("class_names", "ignored_label", "scale")}


def test_the_data_of_a_record_are_those_of_its_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr(segmenters, "model_file", lambda name: tmp_path / "a" / "x")
    monkeypatch.setattr(
        segmenters, "recorded_evaluation", lambda *_: measured_as(OPTIONS)
    )
    assert data_of("upernet_a.b", NOTHING) == Data(
        dataset="./camvid",
        train_split="val",
        test_split="val",
        class_names=("sky", "road"),
        ignored_label=11,
        scale=(360, 480),
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {key: OPTIONS[key] for key in ("class_names", "scale")},
        OPTIONS | {"class_names": "sky"},
        OPTIONS | {"scale": [360]},
        OPTIONS | {"more": 1},
    ],
)
def test_a_record_of_another_form_is_refused(tmp_path, monkeypatch, options):
    monkeypatch.setattr(segmenters, "model_file", lambda name: tmp_path / "x")
    monkeypatch.setattr(
        segmenters, "recorded_evaluation", lambda *_: measured_as(options)
    )
    message = r"The record of upernet_a\.b does not describe its evaluation \(.+\)\.$"
    with pytest.raises(ValueError, match=message):
        data_of("upernet_a.b", NOTHING)
