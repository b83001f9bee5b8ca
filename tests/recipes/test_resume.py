"""A run folder that is gone on in: with what, by whom, and where it is refused."""

import contextlib
import json
import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from PIL import Image

import keras_cbvit
from recipes.commands import report_errors
from recipes.data.fingerprints import dataset_fingerprint
from recipes.data.sources import load_dataset
from recipes.tasks import task_of
from recipes.train import train
from recipes.training import run_folder
from recipes.training.callbacks import Checkpoints
from recipes.training.devices import threads
from recipes.training.run_folder import read_config, refuse_others
from tests.full_disk import files_in, no_file_over
from tests.recipes.small import interrupted, read_log, small
from tests.tiny import assert_same_values, values

pytestmark = pytest.mark.slow


def write_images(folder, classes, number):
    for label, name in enumerate(classes):
        random = np.random.default_rng(label)
        for split, images in (("train", number), ("test", 4)):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(images):
                pixels = random.normal(60 + 60 * label, 30, (8, 8, 3)).clip(0, 255)
                image = Image.fromarray(pixels.astype("uint8"))
                image.save(folder / split / name / f"{i:03}.png")


def of_images(folder, run_dir):
    return small(
        run_dir,
        dataset=str(folder),
        global_batch_size=8,
        checkpoint_steps=2,
        epochs=2,
        shift=0,
    )


def claim(experiment):
    """What training does in the run folder before its first step."""
    data = dataset_fingerprint(load_dataset(experiment.data))
    run_folder.claim(task_of(experiment), experiment, "the command", data)


@pytest.mark.any_backend
def test_other_data_are_refused_before_anything_is_touched(tmp_path):
    write_images(tmp_path / "data", "abc", 8)
    experiment = of_images(tmp_path / "data", tmp_path / "run")
    with interrupted(step=5):
        train(experiment)
    before = files_in(tmp_path / "run")

    def refused(message, begin=claim):
        with pytest.raises(ValueError, match=message):
            begin(experiment)
        assert files_in(tmp_path / "run") == before

    write_images(tmp_path / "data", "abc", 12)
    refused(r"contains a run on other data \(24 training images, now 36\); use", train)
    for path in (tmp_path / "data" / "train").glob("*/*.png"):
        if int(path.stem) >= 8:
            path.unlink()
    write_images(tmp_path / "data", "abcd", 8)
    refused("with the new class 'd'; 24 training images, now 32; 12 test images, now")
    for split in ("train", "test"):
        folder = tmp_path / "data" / split
        for path in (folder / "d").iterdir():
            path.unlink()
        (folder / "d").rmdir()
        (folder / "a").rename(folder / "z")
    refused(r"other data \(class 'a' is now 'z'\)")
    for split in ("train", "test"):
        (tmp_path / "data" / split / "z").rename(tmp_path / "data" / split / "a")
    for path in (tmp_path / "data").rglob("*.png"):
        os.utime(path, (1, 1))
    train(experiment)
    assert [epoch["epoch"] for epoch in read_log(tmp_path / "run")] == [0, 1]


@pytest.mark.any_backend
def test_a_run_says_what_its_data_were(finished):
    data = read_config(finished.run.run_dir)["data"]
    assert data["class_names"] == list("0123456789")
    totals = [sum(data[split]["images"]) for split in ("train", "test")]
    assert totals == [1437, 360]


ABSENT = object()


def with_config(finished, folder, **changes):
    config = read_config(finished.run.run_dir) | changes
    config = {key: value for key, value in config.items() if value is not ABSENT}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return small(folder, depth=2, drop_path_rate=0.5)


@pytest.mark.any_backend
def test_a_run_that_does_not_say_what_its_data_were_is_refused(finished, tmp_path):
    experiment = with_config(finished, tmp_path, data=ABSENT)
    refuse_others(experiment)  # its numbers can be printed
    with pytest.raises(ValueError, match="does not describe the data of the run"):
        claim(experiment)


def test_a_start_before_the_first_checkpoint_is_not_recorded(tmp_path):
    experiment = small(tmp_path)
    claim(experiment)
    config = read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "threads": 99}))
    claim(experiment)
    assert read_config(tmp_path) == config
    (tmp_path / "config.json").write_text(json.dumps({**config, "threads": 99}))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step_00000004.weights.h5").touch()
    claim(experiment)
    assert read_config(tmp_path)["threads"] == 99


@pytest.mark.any_backend
def test_checkpoints_without_a_configuration_are_refused(tmp_path):
    with interrupted(step=4):
        train(small(tmp_path))
    (tmp_path / "config.json").unlink()
    before = files_in(tmp_path)
    with pytest.raises(ValueError, match=r"config\.json is missing or damaged \(No su"):
        train(small(tmp_path))
    assert files_in(tmp_path) == before


CONFIGS = [
    "",
    "{",
    "{}",
    "[]",
    "null",
    "1",
    '"experiment"',
    "[" * 10**5,
    '{"experiment": null, "backend": "torch"}',
    '{"experiment": {"network": []}, "backend": "torch"}',
    '{"experiment": {}}',
]


@pytest.mark.parametrize("text", CONFIGS)
@pytest.mark.any_backend
def test_a_configuration_of_another_form_is_damaged(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    message = r"config\.json is missing or damaged \(.+\); remove .*, or use another"
    with pytest.raises(ValueError, match=message) as caught:
        refuse_others(small(tmp_path), keras.backend.backend())
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data", []),
        ("data", {"class_names": ["0"]}),
        ("threads", "2"),
        ("thread_variables", [1]),
        ("versions", None),
        ("cpu", 5),
        ("backend", ["torch"]),
        ("experiment", {"network": {}, "data": {}, "augmentation": {}, "run": {}}),
    ],
)
@pytest.mark.any_backend
def test_a_configuration_with_a_wrong_value_is_damaged(finished, tmp_path, key, value):
    experiment = with_config(finished, tmp_path, **{key: value})
    with pytest.raises(ValueError, match=f"is missing or damaged .*'{key}|training'"):
        claim(experiment)


@pytest.mark.any_backend
def test_what_differs_is_said_in_short(finished, tmp_path):
    found = read_config(finished.run.run_dir)["experiment"]
    for group in found.values():
        group.update(dict.fromkeys(group, "x" * 10**5))
    experiment = with_config(finished, tmp_path, experiment=found)
    with pytest.raises(ValueError, match="other settings .* and [0-9]+ more") as caught:
        refuse_others(experiment)
    assert len(str(caught.value)) < 1000


def gone_on(experiment):
    """The warnings of an interrupted run that goes on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(experiment)
    return [str(w.message) for w in caught if "bit-for-bit" in str(w.message)]


@pytest.mark.any_backend
def test_another_number_of_threads_is_said(tmp_path):
    experiment = small(tmp_path, epochs=2)
    with interrupted(step=7):
        train(experiment)
    config = read_config(tmp_path)
    assert config["threads"] == threads()
    with interrupted(step=8):
        assert gone_on(experiment) == []
    changed = config | {"threads": 99, "device": "CPU"}
    changed["versions"] = config["versions"] | {"keras": "3.0.0"}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    (warning,) = gone_on(experiment)
    assert f"keras 3.0.0, now {keras.__version__}" in warning
    if config["device"] == "CPU":
        assert f"threads 99, now {threads()}" in warning
    assert warning.endswith("equal to those of an uninterrupted run.")
    # Nothing is computed any more.
    assert gone_on(experiment) == []


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="of torch")
def test_the_threads_are_those_that_torch_computes_with():
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        assert threads() == before + 1
    finally:
        torch.set_num_threads(before)


HOLDER = """
import sys, time
from pathlib import Path
from recipes.training.run_folder import lock

with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.any_backend
def test_two_processes_do_not_train_in_one_folder(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="Another process is training in"):
            train(small(tmp_path, epochs=1))
    finally:
        holder.kill()
        holder.communicate()
    with run_folder.lock(tmp_path):
        pass


@pytest.mark.any_backend
def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on(
    finished, tmp_path, monkeypatch, capfd
):
    experiment = small(tmp_path, depth=2, drop_path_rate=0.5)
    original = Checkpoints.on_train_batch_end
    disk = contextlib.ExitStack()

    def fill(self, batch, logs=None):
        original(self, batch, logs)
        if self.step == 4:
            disk.enter_context(no_file_over(self.newest().stat().st_size - 1))

    kept = [
        tmp_path / "checkpoints" / f"step_0000000{step}.weights.h5" for step in (3, 5)
    ]
    with monkeypatch.context() as patch, disk, pytest.raises(SystemExit) as caught:
        patch.setattr(Checkpoints, "on_train_batch_end", fill)
        with report_errors():
            train(experiment)
    file = tmp_path / "checkpoints" / "step_00000006.weights.h5"
    assert str(caught.value).splitlines() == [
        "",
        f"OSError: {file} cannot be written (File too large). The last good checkpoint "
        f"is {kept[1]}; the same command resumes from it.",
    ]
    assert "HDF5" not in capfd.readouterr().err
    assert sorted(file.parent.iterdir()) == kept
    assert not list(tmp_path.rglob("partial*"))
    train(experiment)
    one, other = (
        values(keras_cbvit.ViTCB(weights=folder / "model.keras"))
        for folder in (tmp_path, finished.run.run_dir)
    )
    assert_same_values(one, other)
    assert [epoch["epoch"] for epoch in read_log(tmp_path)] == [0, 1, 2]


@pytest.mark.any_backend
def test_a_model_that_cannot_be_saved_is_named_and_saved_later(tmp_path):
    (tmp_path / "model.keras").mkdir()  # in its place, whatever the reason
    experiment = small(tmp_path, epochs=1)
    with pytest.raises(OSError, match=r"model\.keras cannot be written") as caught:
        train(experiment)
    assert "step_00000005.weights.h5" in caught.value.__notes__[0]
    (tmp_path / "model.keras").rmdir()
    model, _ = train(experiment)
    saved = keras_cbvit.ViTCB(weights=tmp_path / "model.keras")
    assert_same_values(values(saved), values(model))
