"""Training segmentation, with a small UperNet."""

import dataclasses
import importlib
import json

import keras
import numpy as np
import pytest
from PIL import Image

from recipes import train as recipe
from recipes.data.segmentation.pairs import load_pairs
from recipes.evaluation.pixels import measure
from recipes.experiment import Experiment, Run
from recipes.network import Network, build_segmenter
from recipes.options.segmentation import NO_AUGMENTATION, Augmentation, Data, Training
from recipes.tasks import segmentation
from recipes.training.callbacks import NonFiniteLossError
from tests.recipes.html import Page
from tests.recipes.small import interrupted, read_log
from tests.tiny import assert_same_values, values

# On TensorFlow and JAX, `training/test_segmentation_devices.py` trains the same model.
pytestmark = [pytest.mark.any_backend, pytest.mark.slow]

NETWORK = Network(
    patch_size=4,
    hidden_dim=16,
    depth=4,
    num_heads=2,
    mlp_ratio=2,
    blocks=(0, 1, 2, 3),
    channels=8,
)
COLORS = np.array([[230, 30, 30], [30, 230, 30], [30, 30, 230]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures whose color tells the class, of several sizes; an edge is ignored."""
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def write_pictures(folder):
    random = np.random.default_rng(0)
    for split, number in (("train", 8), ("val", 5)):
        for place in ("images", "labels"):
            (folder / split / place).mkdir(parents=True)
        for i in range(number):
            coarse = random.integers(0, 3, (3, 4 + i % 2))
            truth = np.kron(coarse, np.ones((8, 8), int))
            pixels = COLORS[truth] + random.integers(-20, 20, (*truth.shape, 3))
            truth[:, -1] = 11
            image = Image.fromarray(pixels.astype("uint8"))
            image.save(folder / split / f"images/{i}.png")
            labels = Image.fromarray(truth.astype("uint8"))
            labels.save(folder / split / f"labels/{i}.png")
    return folder


def small(folder, run_dir, **changes):
    """An experiment of twelve iterations, evaluated after each third."""
    experiment = Experiment(
        network=NETWORK,
        data=Data(
            str(folder),
            class_names=("red", "green", "blue"),
            ignored_label=11,
            scale=(24, 64),
            image_size=(24, 32),
        ),
        training=Training(
            iterations=12,
            global_batch_size=4,
            learning_rate=2e-2,
            warmup_iterations=1,
            evaluation_iterations=4,
        ),
        augmentation=Augmentation(max_class_fraction=0.9, photometric=False),
        run=Run(run_dir=run_dir, checkpoint_steps=6, report=False),
    )
    for group in dataclasses.fields(experiment):
        values = getattr(experiment, group.name)
        own = {key: changes.pop(key) for key in list(changes) if hasattr(values, key)}
        values = dataclasses.replace(values, **own)
        experiment = dataclasses.replace(experiment, **{group.name: values})
    assert not changes, changes
    return experiment


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """The experiment, the model and the data set of a run."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    experiment = small(folder, run_dir, report=True)
    return experiment, *recipe.train(experiment, "the command")


def test_a_run_folder_tells_its_story(finished):
    experiment, *_ = finished
    folder = experiment.run.run_dir
    log = read_log(folder)
    assert [epoch["epoch"] for epoch in log] == [0, 1, 2]
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["val_mean_iou"] > 0.5
    assert log[-1]["learning_rate"] == pytest.approx(0, abs=1e-9)
    assert len(list((folder / "checkpoints").iterdir())) == 3
    assert list((folder / "tensorboard").glob("events*"))
    for name in ("curves.png", "predictions.png"):
        with Image.open(folder / name) as picture:
            assert len(picture.getcolors(1 << 22)) > 10
    config = json.loads((folder / "config.json").read_text())
    assert config["command"] == "the command"
    assert config["experiment"]["training"]["auxiliary_weight"] == 0.4
    assert config["backend"] == keras.backend.backend()


def test_the_saved_model_is_the_one_that_was_evaluated(finished):
    experiment, model, _ = finished
    saved = keras.saving.load_model(experiment.run.run_dir / "model.keras")
    assert saved.output_shape == (None, None, None, 3)
    assert_same_values(values(saved), values(model))
    found = measure(saved, load_pairs(experiment.data).test, experiment.data.scale)
    last = read_log(experiment.run.run_dir)[-1]
    assert found["mean_iou"] == pytest.approx(last["val_mean_iou"], abs=1e-3)
    assert found["pixel_accuracy"] == pytest.approx(
        last["val_pixel_accuracy"], abs=1e-3
    )
    # The ignored edge of each of five pictures does not count.
    assert found["pixels"] == 24 * (31 * 3 + 39 * 2)
    shown = Page((experiment.run.run_dir / "report.html").read_text())
    assert shown.numbers["mean IoU"] == f"{found['mean_iou']:.4f}"
    _, *rows = shown.tables["IoU of each class"]
    ious = [f"{100 * iou:.2f}" for iou in found["class_iou"]]
    assert rows == [list(row) for row in zip(model.class_names, ious, strict=True)]
    assert len(shown.images) == 3 * 5


def test_an_interrupted_run_ends_as_an_uninterrupted_one(finished, folder, tmp_path):
    experiment, whole, _ = finished
    parts = small(folder, tmp_path / "run")
    with interrupted(step=7):  # in the second epoch, after the checkpoint of step 6
        recipe.train(parts)
    assert len(read_log(tmp_path / "run")) == 1
    model, _ = recipe.train(parts)
    assert_same_values(values(model), values(whole))

    def numbers(folder):
        return [(e["loss"], e["val_mean_iou"]) for e in read_log(folder)]

    assert numbers(tmp_path / "run") == numbers(experiment.run.run_dir)


def test_a_folder_of_other_settings_is_refused(finished, folder):
    experiment = small(folder, finished[0].run.run_dir, learning_rate=1e-3)
    with pytest.raises(ValueError, match=r"\(learning_rate=0\.02, not 0\.001\)"):
        recipe.train(experiment)


def test_mixed_bfloat16_stays_near_float32(finished, folder, tmp_path):
    options = {"iterations": 4, "learning_rate": 1e-3}
    losses = []
    for each in ("float32", "mixed_bfloat16"):
        experiment = small(folder, tmp_path / each, precision=each, **options)
        model, _ = recipe.train(experiment)
        losses.append(read_log(tmp_path / each)[0]["loss"])
    assert model.dtype_policy.name == "float32"
    assert {w.dtype for w in model.weights} == {"float32"}
    # Dropout may be drawn otherwise in another dtype.
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_smoke_runs_the_whole_command(folder, tmp_path):
    options = ["--smoke", "--run-dir", str(tmp_path / "run"), "--dataset", str(folder)]
    options += ["--image-size", "24", "32", "--scale", "24", "64"]
    options += [
        "--model",
        "None",
        "--patch-size",
        "8",
        "--hidden-dim",
        "8",
        "--depth",
        "4",
    ]
    options += ["--num-heads", "2", "--blocks", "0", "1", "2", "3", "--channels", "4"]
    recipe.main(["camvid", *options])
    log = read_log(tmp_path / "run_smoke")
    assert [epoch["epoch"] for epoch in log] == [0, 1]
    config = json.loads((tmp_path / "run_smoke" / "config.json").read_text())
    assert config["command"].startswith("python -m recipes.train camvid --smoke")
    model = keras.saving.load_model(tmp_path / "run_smoke" / "model.keras")
    assert model.output_shape[-1] == 11


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"evaluation_iterations": 5},
            "iterations=12 must be a multiple of evaluation_iter",
        ),
        ({"iterations": 0}, "iterations=0 must be a whole number of at least 1"),
        ({"warmup_ratio": 2.0}, "warmup_ratio=2.0 must be between 0 and 1"),
        ({"resize": (2.0, 0.5)}, r"resize=\(2\.0, 0\.5\) must be two positive factors"),
        ({"scale": (0, 4)}, r"scale=\(0, 4\) must be two sides"),
        ({"max_class_fraction": 1.5}, "max_class_fraction=1.5 must be between 0 and 1"),
        ({"dataset": "./none"}, "The folder none does not exist"),
        ({"class_names": ()}, "class_names has 0 names"),
        ({"class_names": ("red", "green", "red")}, "--class-names has 'red' twice"),
    ],
)
def test_settings_that_cannot_work_end_with_a_sentence(
    folder, tmp_path, changes, message
):
    with pytest.raises((ValueError, OSError), match=message):
        recipe.train(small(folder, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_masks_whose_object_is_ignored_stop_before_training(tmp_path):
    for split in ("train", "val"):
        for place in ("images", "labels"):
            (tmp_path / split / place).mkdir(parents=True)
        for i in range(4):
            mask = np.zeros((24, 32), "uint8")
            mask[4 * i : 4 * i + 8] = 255
            Image.fromarray(mask).convert("RGB").save(
                tmp_path / split / f"images/{i}.png"
            )
            Image.fromarray(mask).save(tmp_path / split / f"labels/{i}.png")
    masks = {"class_names": ("background", "object"), "ignored_label": 255}
    message = (
        r"none of the 4 training images has pixels of object \(label 1\); the "
        r"labels found are 0, 255 \(ignored\)"
    )
    with pytest.raises(ValueError, match=message):
        recipe.train(small(tmp_path, tmp_path / "run", **masks))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops(folder, tmp_path, monkeypatch):
    def build_broken(*arguments):
        model = build_segmenter(*arguments)
        norm = model.get_layer("block_0").norm1
        norm.beta.assign(np.full(norm.beta.shape, np.nan))
        return model

    monkeypatch.setattr(segmentation, "build_segmenter", build_broken)
    with pytest.raises(NonFiniteLossError, match="is nan.*step 1 of epoch 1"):
        recipe.train(small(folder, tmp_path / "run"))


def test_without_augmentation_and_with_one_picture_it_learns(folder, tmp_path):
    augmentation = dataclasses.asdict(NO_AUGMENTATION)
    options = {"iterations": 40, "evaluation_iterations": 40, "learning_rate": 5e-2}
    options["checkpoint_steps"] = 40
    recipe.train(small(folder, tmp_path / "run", **options, **augmentation))
    assert read_log(tmp_path / "run")[-1]["val_mean_iou"] > 0.9


def test_another_model_does_not_keep_the_sizes_of_the_config(monkeypatch):
    asked = []
    monkeypatch.setattr(recipe, "train", lambda experiment, _: asked.append(experiment))
    recipe.main(["camvid_mini", "--model", "upernet_vitcb_ti"])
    recipe.main(["camvid_mini", "--model", "upernet_vitcb_ti", "--channels", "64"])
    recipe.main(["camvid_mini"])
    networks = [experiment.network for experiment in asked]
    assert [network.channels for network in networks] == [None, 64, 32]
    assert [network.blocks for network in networks] == [None, None, (1, 2, 3, 5)]
    weights = [network.weights for network in networks]
    assert weights == [None, None, "vitcb_mini.cifar10"]


def test_ade20k_is_trained_as_xcit_does():
    config = importlib.import_module("recipes.configs.ade20k").config()
    assert len(set(config.data.class_names)) == 150
    assert config.data.class_names[0] == "wall"
    assert config.data.class_names[149] == "flag"
    assert config.data.ignored_label == 0
    assert config.data.image_size == (512, 512)
    training = config.training
    assert (training.iterations, training.global_batch_size) == (160_000, 16)
    assert (training.learning_rate, training.weight_decay) == (6e-5, 0.01)
    assert (training.warmup_iterations, training.warmup_ratio) == (1500, 1e-6)
    assert training.auxiliary_weight == 0.4
    augmentation = config.augmentation
    assert augmentation == Augmentation((0.5, 2.0), 0.75, True, True)


def test_the_shorter_training_on_ade20k_differs_in_its_length_alone():
    short, full = (
        importlib.import_module(f"recipes.configs.{name}").config()
        for name in ("ade20k_40k", "ade20k")
    )
    assert short.training == dataclasses.replace(full.training, iterations=40_000)
    assert (short.run.run_dir.name, full.run.run_dir.name) == ("ade20k_40k", "ade20k")
    assert dataclasses.replace(short, training=full.training, run=full.run) == full


@pytest.mark.parametrize("name", ["ade20k", "ade20k_40k", "camvid", "camvid_mini"])
def test_a_config_says_its_command(name):
    module = importlib.import_module(f"recipes.configs.{name}")
    assert f"python -m recipes.train {name}" in module.__doc__
    config = module.config()
    assert config.training.iterations % config.training.evaluation_iterations == 0
