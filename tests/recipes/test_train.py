import importlib
import json

import numpy as np
import pytest
from PIL import Image

import keras_cbvit
from keras_cbvit.pretrained.catalog import read_catalog
from recipes import train as recipe
from recipes.data.sources import load_dataset
from recipes.evaluate import count_right
from recipes.experiment import build_model
from recipes.training.callbacks import NonFiniteLossError
from tests.recipes.small import interrupted, network_options, read_log, small
from tests.tiny import assert_same_values, values


@pytest.mark.parametrize("name", recipe.config_names())
def test_the_network_of_every_config_can_be_built(name):
    experiment = importlib.import_module(f"recipes.configs.{name}").config()
    data = experiment.data
    model = build_model(experiment.network, data, 7, "float32")
    assert model.input_shape == (None, *data.image_size, 3)
    assert model.output_shape == (None, 7)


def test_smoke_runs_the_whole_command(tmp_path, capsys):
    folder = tmp_path / "run"
    recipe.main(["digits", "--smoke", "--run-dir", str(folder), *network_options()])
    assert [epoch["epoch"] for epoch in read_log(folder)] == [0, 1]
    model = keras_cbvit.ViTCB(weights=folder / "model.keras")
    assert model.output_shape == (None, 10)
    assert model.get_config()["classifier_activation"] == "softmax"


def test_a_run_folder_tells_its_story(tmp_path):
    classifier, dataset = recipe.train(small(tmp_path, epochs=2), "the command")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["command"] == "the command"
    assert config["experiment"]["training"]["epochs"] == 2
    assert {"python", "keras", "numpy"} <= config["versions"].keys()
    log = read_log(tmp_path)
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert len(rows) == 1 + len(log) == 3
    assert list((tmp_path / "tensorboard").glob("events*"))
    with Image.open(tmp_path / "curves.png") as curves:
        assert len(curves.getcolors(1 << 20)) > 10
    # The log's accuracy is that of the classifier, over each of the 360 images.
    right = count_right(classifier, dataset.test)
    assert log[-1]["val_accuracy"] == pytest.approx(right / 360, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "There is no config 'nonsense'; there are cifar10, digits"),
        (["digits", "--lerning-rate", "1"], "2"),
        (["digits", "--epochs", "many"], "2"),
        (["digits", "--precision", "float8"], "2"),
    ],
)
def test_what_is_not_known_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit, match=message):
        recipe.main(arguments)
    assert all(a in message + capsys.readouterr().err for a in arguments[1:2])


def test_another_model_of_a_known_size_takes_no_size_of_the_config(tmp_path):
    with pytest.raises(SystemExit, match="depth=3 goes with --model ViTCB"):
        recipe.main(
            [
                "digits",
                "--model",
                "ViTCB_Ti",
                "--depth",
                "3",
                "--run-dir",
                str(tmp_path),
            ]
        )


def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path):
    whole, _ = recipe.train(small(tmp_path / "whole", depth=2, drop_path_rate=0.5))
    experiment = small(tmp_path / "parts", depth=2, drop_path_rate=0.5)
    with interrupted(epoch=1):
        recipe.train(experiment)
    assert len(read_log(tmp_path / "parts")) == 1
    parts, _ = recipe.train(experiment)
    assert_same_values(values(parts), values(whole))

    def losses(name):
        return [epoch["loss"] for epoch in read_log(tmp_path / name)]

    assert losses("parts") == losses("whole")


def test_a_folder_of_other_settings_is_refused(tmp_path):
    recipe.train(small(tmp_path, epochs=1, warmup_epochs=0))
    with pytest.raises(ValueError, match="other settings .*seed=0, not 1"):
        recipe.train(small(tmp_path, epochs=1, warmup_epochs=0, seed=1))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    tmp_path, monkeypatch
):
    experiment = small(tmp_path)
    sane = recipe.train.__globals__["build_model"]

    def poisoned(*arguments):
        """A model whose head becomes NaN in the second epoch."""
        model = sane(*arguments)
        save = model.save_weights

        def save_weights(*args, **kwargs):
            save(*args, **kwargs)
            head = model.get_layer("head").bias
            head.assign(np.full(head.shape, np.nan))

        model.save_weights = save_weights
        return model

    monkeypatch.setattr(recipe, "build_model", poisoned)
    with pytest.raises(NonFiniteLossError, match=r"loss is nan.*epoch 2.*epoch_0001"):
        recipe.train(experiment)
    (checkpoint,) = (tmp_path / "checkpoints").glob("*.weights.h5")
    model = sane(experiment.network, experiment.data, 10, "float32")
    model.load_weights(checkpoint)
    assert all(np.isfinite(value).all() for value in values(model).values())


def test_a_trained_model_is_published_and_comes_back_by_name(tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    experiment = small(
        tmp_path / "run", publish="vitcb_toy.digits", weights_dir=weights, epochs=2
    )
    classifier, dataset = recipe.train(experiment, "the command")
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(weights))
    model = keras_cbvit.ViTCB(weights="vitcb_toy.digits")
    assert_same_values(values(model), values(classifier))
    record = read_catalog(weights)["vitcb_toy.digits"]
    assert record.value == count_right(model, dataset.test) / 360
    assert record.recipe == "the command"
    assert record.dataset == "scikit-learn's digits, 1437 images"
    # The run is over: once more only publishes, and only if that was asked for.
    with pytest.raises(FileExistsError, match="lists vitcb_toy.digits already"):
        recipe.train(experiment)
    other = small(
        tmp_path / "run", publish="vitcb_other.digits", weights_dir=weights, epochs=2
    )
    recipe.train(other)
    assert read_catalog(weights).keys() == {"vitcb_toy.digits", "vitcb_other.digits"}


def test_a_name_that_does_not_fit_is_refused_before_training(tmp_path):
    experiment = small(tmp_path / "run", publish="vitcb_s.digits", weights_dir=tmp_path)
    with pytest.raises(ValueError, match="of none of the paper's sizes"):
        recipe.train(experiment)
    assert not (tmp_path / "run").exists()


def test_training_starts_from_weights_with_their_network(tmp_path):
    first, _ = recipe.train(small(tmp_path / "first", epochs=1, warmup_epochs=0))
    second = small(
        tmp_path / "second",
        epochs=1,
        warmup_epochs=0,
        base_learning_rate=0.0,
        warmup_learning_rate=0.0,
        minimum_learning_rate=0.0,
        model="ViTCB_Ti",
        weights=str(tmp_path / "first" / "model.keras"),
    )
    trained, _ = recipe.train(second)
    assert_same_values(values(trained), values(first))


def test_an_absent_data_set_stops_before_the_run_folder_is_made(tmp_path):
    experiment = small(tmp_path / "run", dataset=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        recipe.train(experiment)
    assert not (tmp_path / "run").exists()


def test_the_command_trains_on_a_folder_of_pictures(tmp_path):
    for split in ("train", "val"):
        for shade, name in ((40, "dark"), (220, "light")):
            place = tmp_path / split / name
            place.mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (10, 9), (shade + i,) * 3).save(place / f"{i}.png")
    folder = tmp_path / "run"
    options = ["--dataset", str(tmp_path), "--test-split", "val", "--epochs", "2"]
    batch = ["--global-batch-size", "8", "--run-dir", str(folder)]
    recipe.main(["digits", *options, *batch, *network_options()])
    data = small(folder, dataset=str(tmp_path), test_split="val").data
    assert load_dataset(data).class_names == ("dark", "light")
    assert len(read_log(folder)) == 2
