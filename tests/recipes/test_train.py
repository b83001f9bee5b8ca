import dataclasses
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_cbvit
from recipes import train as recipe
from recipes.data.batches import TrainingBatches
from recipes.data.sources import load_dataset
from recipes.evaluate import Evaluation, evaluate
from recipes.evaluation import measure
from recipes.network import build_classifier
from recipes.train import train
from recipes.training.callbacks import Checkpoints, EpochLog, NonFiniteLossError
from recipes.training.summary import summary
from tests.recipes.html import Page
from tests.recipes.published import published_file, records_in
from tests.recipes.small import interrupted, network_options, read_log, small
from tests.tiny import assert_same_values, values

pytestmark = pytest.mark.slow


@pytest.mark.any_backend
def test_smoke_runs_the_whole_command(tmp_path):
    options = ["--smoke", "--run-dir", str(tmp_path / "run")]
    options += ["--publish", "vitcb_toy.smoke"]
    options += ["--weights-dir", str(tmp_path), *network_options()]
    recipe.main(["digits", *options])
    folder = tmp_path / "run_smoke"  # that of the real run is left alone
    assert [epoch["epoch"] for epoch in read_log(folder)] == [0, 1]
    model = keras_cbvit.ViTCB(weights=folder / "model.keras")
    assert model.output_shape == (None, 10)
    assert model.spec.classifier_activation == "softmax"
    # The card tells how little it was, and what to type.
    card = published_file(tmp_path, "vitcb_toy.smoke", ".md").read_text()
    assert "2 epochs in batches of 16" in card
    assert "of 100 test images correct" in card
    assert "scikit-learn's digits, 32 images" in card
    assert (
        f"python -m recipes.train digits --smoke --run-dir {tmp_path / 'run'}" in card
    )


@pytest.fixture
def asked(monkeypatch):
    """The experiments that the command would run."""
    experiments = []
    monkeypatch.setattr(recipe, "train", lambda e, command: experiments.append(e))
    return experiments


@pytest.mark.any_backend
def test_options_replace_the_fields_of_a_config(asked):
    recipe.main(["cifar10", "--epochs", "7", "--image-size", "32", "48", "--no-flip"])
    (experiment,) = asked
    config = importlib.import_module("recipes.configs.cifar10").config()
    assert experiment == dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, image_size=(32, 48)),
        augmentation=dataclasses.replace(config.augmentation, flip=False),
        training=dataclasses.replace(config.training, epochs=7),
    )


def test_another_model_does_not_keep_the_sizes_of_the_config(asked):
    recipe.main(["digits", "--model", "vitcb_ti"])
    network = asked[0].network
    assert network.hidden_dim is network.depth is network.num_heads is None


@pytest.mark.any_backend
def test_help_names_the_configs(capsys):
    recipe.main(["--help"])
    assert "Configs: ade20k, ade20k_40k, camvid" in capsys.readouterr().out


def test_the_configuration_holds_every_setting_version_and_the_commit(finished):
    config = json.loads((finished.run.run_dir / "config.json").read_text())
    for group in dataclasses.fields(finished):
        given = dataclasses.asdict(getattr(finished, group.name))
        assert config["experiment"][group.name].keys() == given.keys()
    assert config["experiment"]["network"]["drop_path_rate"] == 0.5
    assert config["experiment"]["data"]["image_size"] == [8, 8]
    assert config["backend"] == keras.backend.backend()
    assert config["versions"]["keras"] == keras.__version__
    assert keras.backend.backend() in config["versions"]
    if config["commit"] is None:  # no checkout, as from a tarball
        return
    known = ["git", "cat-file", "-e", config["commit"].removesuffix("-dirty")]
    checkout = Path(recipe.__file__).parent
    is_known = subprocess.run(known, cwd=checkout, stderr=subprocess.PIPE)
    assert is_known.returncode == 0, is_known.stderr


def test_a_run_folder_tells_its_story(finished):
    folder = finished.run.run_dir
    log = read_log(folder)
    assert [epoch["epoch"] for epoch in log] == [0, 1, 2]
    assert log[-1]["loss"] < log[0]["loss"]
    assert len((folder / "log.csv").read_text().splitlines()) == 1 + len(log)
    assert list((folder / "tensorboard").glob("events*"))
    with Image.open(folder / "curves.png") as curves:
        assert len(curves.getcolors(1 << 20)) > 10
    # The log's accuracy is that of the classifier, over each of the 360 images.
    classifier = keras_cbvit.ViTCB(weights=folder / "model.keras")
    measured = measure(classifier, load_dataset(finished.data).test)
    assert log[-1]["val_accuracy"] == pytest.approx(measured["top1"], abs=1e-6)
    report = (folder / "report.html").read_text()
    shown = Page(report)
    assert shown.numbers["right"] == f"{measured['right']}"
    assert shown.numbers["ECE"] == f"{measured['ece']:.4f}"
    _, *counts = shown.tables["Confusion matrix"]
    assert sum(int(row[i]) for i, row in enumerate(counts, 1)) == measured["right"]
    assert shown.numbers["command"] == "python -m recipes.train some options"
    assert report.count("<svg") == 3  # two curves and the calibration


def test_a_run_ends_with_where_everything_is(finished):
    folder = finished.run.run_dir
    last = read_log(folder)[-1]
    first, *lines, command = summary(finished.run).splitlines()
    assert first == (
        f"Trained 3 epochs: loss {last['loss']:.4f}, val_accuracy "
        f"{last['val_accuracy']:.4f}, val_loss {last['val_loss']:.4f}."
    )
    found = dict(re.split(" {2,}", line.strip()) for line in lines)
    assert found.pop("published") == (
        f"vitcb_tests.digits in {finished.run.weights_dir}"
    )
    names = ["model.keras", "report.html", "log.csv", "curves.png", "tensorboard"]
    names += ["checkpoints"]
    assert list(found.values()) == [str(folder / name) for name in names]
    assert command == f"Evaluate it: python -m recipes.evaluate {folder}"


@pytest.mark.any_backend
def test_a_run_without_tensorboard_and_report_has_neither(tmp_path):
    recipe.train(small(tmp_path / "run", epochs=1, tensorboard=False))
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.any_backend
def test_a_missing_wandb_stops_before_any_data_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SystemExit, match="--wandb requires the package wandb"):
        recipe.main(["digits", "--wandb", "--dataset", str(tmp_path / "nowhere")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "Unknown config 'nonsense'; use one of ade20k, ade20k_40k"),
        (["digits", "--lerning-rate", "1"], "2"),
        (["digits", "--epochs", "many"], "2"),
        (["digits", "--precision", "float8"], "2"),
    ],
)
@pytest.mark.any_backend
def test_what_is_not_known_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit, match=message):
        recipe.main(arguments)
    assert all(a in message + capsys.readouterr().err for a in arguments[1:2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", "16", "18"], r"input_shape=\(16, 18, 3\) must have"),
        (["--num-heads", "5"], "num_heads=5 must divide hidden_dim=64"),
        (["--devices", "0"], "devices=0 must be at least 1"),
        (["--erasing", "2"], "erasing=2.0 must be between 0 and 1"),
        (["--rand-augment", "11"], "rand_augment=11.0 must be between 0 and 10"),
        (["--weight-decay", "-1"], "weight_decay=-1.0 must be at least 0"),
        (["--ema-decay", "1.5"], "ema_decay=1.5 must be between 0 and 1"),
        (["--epochs", "0"], "epochs=0 must be a whole number of at least 1"),
        (
            ["--global-batch-size", "1438"],
            "exceeds the number of training images, 1437",
        ),
        (["--dataset", "./none"], "The folder none does not exist"),
        (["--weights", "none.keras"], "weights='none.keras' does not exist"),
    ],
)
@pytest.mark.any_backend
def test_settings_that_cannot_work_end_with_a_sentence(tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        recipe.main(["digits", "--run-dir", str(tmp_path / "run"), *options])
    assert not (tmp_path / "run").exists()


@pytest.mark.any_backend
def test_imagenet_that_is_absent_says_how_to_get_it(tmp_path):
    with pytest.raises(SystemExit) as exit:
        recipe.main(["imagenet", "--data-dir", str(tmp_path)])
    assert f"imagenet2012 is not in {tmp_path}" in exit.value.code
    assert "https://image-net.org" in exit.value.code
    assert "tfds.load('imagenet2012', data_dir='DIR')" in exit.value.code


def test_a_model_of_a_known_size_keeps_what_is_given_beside_it(asked):
    recipe.main(["digits", "--model", "vitcb_ti", "--depth", "3"])
    network = asked[0].network
    assert (network.model, network.depth, network.hidden_dim) == ("vitcb_ti", 3, None)


@pytest.mark.any_backend
def test_every_step_trains_on_a_batch_of_its_own(tmp_path, monkeypatch):
    asked = []
    original = TrainingBatches.join

    def record(self, step, *others):
        asked.append(step)
        return original(self, step, *others)

    monkeypatch.setattr(TrainingBatches, "join", record)
    recipe.train(small(tmp_path, epochs=2))
    assert asked == list(range(10))


def interrupted_log(self, epoch, logs=None):
    raise KeyboardInterrupt


@pytest.mark.any_backend
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    finished, tmp_path, monkeypatch
):
    whole = keras_cbvit.ViTCB(weights=finished.run.run_dir / "model.keras")
    experiment = small(tmp_path / "parts", depth=2, drop_path_rate=0.5)
    with interrupted(step=8):  # in the second epoch, after the checkpoint of step 6
        recipe.train(experiment)
    assert len(read_log(tmp_path / "parts")) == 1
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EpochLog, "on_epoch_end", interrupted_log)
        recipe.train(experiment)
    parts, _ = recipe.train(experiment)
    assert_same_values(values(parts), values(whole))

    def losses(folder):
        return [(e["epoch"], e["loss"], e["val_loss"]) for e in read_log(folder)]

    assert losses(tmp_path / "parts") == losses(finished.run.run_dir)


def with_run(experiment, **changes):
    run = dataclasses.replace(experiment.run, publish=None, **changes)
    return dataclasses.replace(experiment, run=run)


@pytest.mark.any_backend
def test_a_folder_of_other_settings_is_refused(finished):
    training = dataclasses.replace(finished.training, weight_decay=0.1)
    other = dataclasses.replace(with_run(finished, seed=1), training=training)
    with pytest.raises(
        ValueError, match=r"settings \(weight_decay=0\.05, not 0\.1, seed=0, not 1\)"
    ):
        recipe.train(other)


@pytest.mark.any_backend
def test_what_changes_no_weight_may_change(finished):
    log = (finished.run.run_dir / "log.jsonl").read_bytes()
    recipe.train(with_run(finished, checkpoint_steps=7))
    assert (finished.run.run_dir / "log.jsonl").read_bytes() == log


@pytest.mark.any_backend
def test_a_folder_of_another_backend_is_refused(finished, tmp_path):
    config = json.loads((finished.run.run_dir / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "backend": "other"}))
    with pytest.raises(ValueError, match=r"settings \(backend='other', not '"):
        recipe.train(with_run(finished, run_dir=tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is missing or damaged"):
        recipe.train(with_run(finished, run_dir=tmp_path))


@pytest.mark.any_backend
def test_three_checkpoints_are_kept_and_a_damaged_one_is_passed_over(tmp_path):
    experiment = small(tmp_path, checkpoint_steps=2, epochs=1, warmup_epochs=0)
    expected, _ = recipe.train(experiment)
    *_, before, last = files = sorted((tmp_path / "checkpoints").iterdir())
    assert len(files) == 3
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=last.name):
        again, _ = recipe.train(experiment)
    assert_same_values(values(again), values(expected))
    assert before.name < last.name


@pytest.mark.any_backend
def test_a_finished_run_is_not_trained_again(finished):
    log = (finished.run.run_dir / "log.jsonl").read_bytes()
    before = keras_cbvit.ViTCB(weights=finished.run.run_dir / "model.keras")
    after, _ = recipe.train(with_run(finished))
    assert (finished.run.run_dir / "log.jsonl").read_bytes() == log
    assert_same_values(values(after), values(before))


@pytest.mark.any_backend
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    tmp_path, monkeypatch
):
    experiment = small(tmp_path, checkpoint_steps=100)
    save = Checkpoints.on_epoch_end

    def poison(self, epoch, logs=None):
        """Makes the head NaN once the first epoch is saved."""
        save(self, epoch, logs)
        head = self.model.get_layer("head").bias
        head.assign(np.full(head.shape, np.nan))

    monkeypatch.setattr(Checkpoints, "on_epoch_end", poison)
    with pytest.raises(NonFiniteLossError, match=r"is nan.*epoch 2.*step_00000005"):
        recipe.train(experiment)
    (checkpoint,) = (tmp_path / "checkpoints").glob("*.weights.h5")
    model = build_classifier(experiment.network, experiment.data, 10, "float32")
    model.load_weights(checkpoint)
    assert all(np.isfinite(value).all() for value in values(model).values())


def test_mixed_bfloat16_stays_near_float32(tmp_path):
    # Without random depth, which TensorFlow draws otherwise in another dtype.
    options = {"epochs": 1, "warmup_epochs": 0}
    for precision in ("float32", "mixed_bfloat16"):
        recipe.train(small(tmp_path / precision, precision=precision, **options))
    wide, mixed = (
        [(epoch["loss"], epoch["val_loss"]) for epoch in read_log(tmp_path / precision)]
        for precision in ("float32", "mixed_bfloat16")
    )
    assert mixed != wide
    np.testing.assert_allclose(mixed, wide, rtol=2e-3)


@pytest.mark.any_backend
def test_training_starts_from_weights_with_their_network(finished, tmp_path, asked):
    weights = finished.run.run_dir / "model.keras"
    still = ["--epochs", "1", "--warmup-epochs", "0", "--base-learning-rate", "0"]
    still += ["--minimum-learning-rate", "0", "--image-size", "8", "8"]
    options = ["--weights", str(weights), "--run-dir", str(tmp_path / "run"), *still]
    recipe.main(["digits", *options, "--no-report"])
    recipe.main(["digits", *options, "--depth", "3"])
    experiment, other = asked
    trained, _ = train(experiment)
    assert_same_values(values(trained), values(keras_cbvit.ViTCB(weights=weights)))
    with pytest.raises(ValueError, match="have depth=2, not 3"):
        train(other)


def test_the_card_has_the_accuracy_that_the_published_file_is_evaluated_to(
    finished, published_digits
):
    (measured,) = evaluate(Evaluation((published_digits,)))
    right = measured["right"]
    record = records_in(finished.run.weights_dir)[published_digits]
    assert record.evaluations[0].metrics["top1"] == right / 360
    assert measured["images"] == 360
    card = published_file(finished.run.weights_dir, published_digits, ".md").read_text()
    assert f"{right} of 360 test images correct" in card
    assert "3 epochs in batches of 256, float32, seed 0, on" in card


def test_published_weights_are_those_that_were_trained(finished, published_digits):
    trained = keras_cbvit.ViTCB(weights=finished.run.run_dir / "model.keras")
    assert_same_values(
        values(keras_cbvit.ViTCB(weights=published_digits)), values(trained)
    )
    record = records_in(finished.run.weights_dir)[published_digits]
    assert record.recipe == "python -m recipes.train some options"
    assert record.trained_on == "scikit-learn's digits, 1437 images"


@pytest.mark.any_backend
def test_a_finished_run_can_be_published_under_another_name(finished, tmp_path):
    with pytest.raises(FileExistsError, match=r"already lists vitcb_tests\.digits"):
        recipe.train(finished)
    run = dataclasses.replace(
        finished.run, publish="vitcb_other.digits", weights_dir=tmp_path
    )
    recipe.train(dataclasses.replace(finished, run=run))
    assert records_in(tmp_path).keys() == {"vitcb_other.digits"}


@pytest.mark.any_backend
def test_a_name_that_does_not_fit_is_refused_before_training(tmp_path):
    experiment = small(tmp_path / "run", publish="vitcb_s.digits", weights_dir=tmp_path)
    with pytest.raises(ValueError, match="not a registered one"):
        recipe.train(experiment)
    assert not (tmp_path / "run").exists()


@pytest.mark.any_backend
def test_an_absent_data_set_stops_before_the_run_folder_is_made(tmp_path):
    experiment = small(tmp_path / "run", dataset=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="The folder .* does not exist"):
        recipe.train(experiment)
    assert not (tmp_path / "run").exists()


@pytest.mark.any_backend
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
