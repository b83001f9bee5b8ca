"""Every config runs from its first line to the saved model, in its smoke mode."""

import numpy as np
import pytest
from PIL import Image

import keras_cbvit
from recipes.train import main, train
from tests.recipes import imagenet
from tests.recipes.small import network_options, read_log, small

pytestmark = pytest.mark.slow

# CIFAR-10 is not there; ImageNet is TFDS's own, with very few pictures.
DATA = {
    "cifar10": ["--dataset", "digits"],
    "cifar10_mini": ["--dataset", "digits"],
    "digits": [],
    "imagenet": [
        *("--data-dir", str(imagenet.FOLDER)),
        *("--image-size", "32", "32"),
        *("--global-batch-size", "128"),
    ],
}


@pytest.mark.any_backend
@pytest.mark.parametrize("name", DATA)
def test_smoke_of_every_config(name, tmp_path):
    options = ["--smoke", "--run-dir", str(tmp_path / "run"), *DATA[name]]
    main([name, *options, *network_options()])
    folder = tmp_path / "run_smoke"
    assert len(read_log(folder)) == 2
    model = keras_cbvit.ViTCB(weights=folder / "model.keras")
    assert model.output_shape == (None, 1000 if name == "imagenet" else 10)
    assert (folder / "model_ema.keras").exists() == (name == "imagenet")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of pictures of four classes, told by where they are bright."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(4):
            place = folder / split / f"class_{label}"
            place.mkdir(parents=True)
            for i in range(6):
                pixels = random.integers(0, 120, (40 + i, 44, 3), dtype="uint8")
                row, column = divmod(label, 2)
                pixels[20 * row : 20 * row + 20, 22 * column : 22 * column + 22] += 120
                Image.fromarray(pixels).save(place / f"{i}.jpg")
    return folder


FITTING = {
    "image_size": (16, 16),
    "shift": 0,
    "hidden_dim": 32,
    "depth": 2,
    "global_batch_size": 24,
    "base_learning_rate": 0.4,
    "warmup_epochs": 2,
    "weight_decay": 0.0,
}


@pytest.mark.any_backend
def test_the_full_policy_runs_from_pictures_to_both_evaluations(pictures, tmp_path):
    policy = {
        "repeats": 3,
        "random_resized_crop": True,
        "flip": True,
        "rand_augment": 9.0,
        "erasing": 0.25,
        "mixup_alpha": 0.8,
        "cutmix_alpha": 1.0,
    }
    options = {**FITTING, "epochs": 4, "clip_norm": 1.0, "ema_decay": 0.9}
    train(small(tmp_path, dataset=str(pictures), **options, **policy))
    for epoch in read_log(tmp_path):
        assert 1.0 < epoch["loss"] < 2.0
        assert 1.0 < epoch["val_ema_loss"] < 2.0
    assert epoch["val_ema_loss"] != epoch["val_loss"]


@pytest.mark.any_backend
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path, parts):
    # At a constant rate; each of its steps has one, also those that only sum up.
    batch = {"global_batch_size": 356, "base_learning_rate": 1e-2 * 1024 / 356}
    options = {"epochs": 1, "warmup_epochs": 0, "minimum_learning_rate": 1e-2, **batch}
    results = []
    for number in (1, parts):
        folder = tmp_path / str(number)
        train(small(folder, shift=0, accumulation_steps=number, **options))
        results.append(read_log(folder)[-1])
    whole, summed = results
    assert summed["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-4)


def test_parts_that_do_not_divide_the_batch_are_refused(tmp_path):
    with pytest.raises(ValueError, match="accumulation_steps=3 must divide global_b"):
        train(small(tmp_path / "run", accumulation_steps=3))
    assert not (tmp_path / "run").exists()
