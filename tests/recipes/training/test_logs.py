import csv
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from recipes.data.feed import Feed
from recipes.training import states
from recipes.training.callbacks import EpochLog
from recipes.training.logs import Scalars, read_log, require_wandb
from tests.full_disk import files_in, no_file_over
from tests.recipes.training.compiled import compiled_model

pytestmark = pytest.mark.any_backend


def log_epochs(folder, first_epoch, losses):
    """Logs these losses as those of the epochs from `first_epoch` on."""
    feed = Feed(None, 0)
    trackers = [Scalars(folder / "tensorboard")]
    log = EpochLog(folder, first_epoch, 100, lambda: 7, feed, trackers)
    log.set_model(compiled_model())
    log.on_train_begin()
    for epoch, loss in enumerate(losses, first_epoch):
        log.on_epoch_begin(epoch)
        log.on_train_batch_end(0)
        log.on_epoch_end(
            epoch,
            {"loss": loss, "val_loss": loss, "accuracy": 0.5, "val_accuracy": 0.25},
        )
    log.on_train_end()


def read_jsonl(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").open()]


def read_csv(folder):
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def read_tensorboard(folder, tag):
    """What TensorBoard shows: a start at a step hides earlier values from there on."""
    shown = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data, start = path.read_bytes(), 0
        while start < len(data):  # length, its checksum, event, its checksum
            length = int.from_bytes(data[start : start + 8], "little")
            event = Event.FromString(data[start + 12 : start + 12 + length])
            if event.session_log.status == SessionLog.START:
                shown = [(step, value) for step, value in shown if step < event.step]
            shown += [
                (event.step, v.simple_value)
                for v in event.summary.value
                if v.tag == tag
            ]
            start += length + 16
    return shown


def test_each_epoch_is_logged_everywhere(tmp_path):
    log_epochs(tmp_path, 0, [3.0, 2.0])
    jsonl, table = read_jsonl(tmp_path), read_csv(tmp_path)
    assert [(e["epoch"], e["loss"]) for e in jsonl] == [(0, 3.0), (1, 2.0)]
    assert [(e["epoch"], e["loss"]) for e in table] == [("0", "3.0"), ("1", "2.0")]
    for entry in jsonl:
        assert entry["val_accuracy"] == 0.25
        assert entry["learning_rate"] == pytest.approx(0.01)
        assert entry["images_per_second"] > 0
        assert entry["broken_images"] == 7
    assert read_tensorboard(tmp_path, "loss") == [(0, 3.0), (1, 2.0)]
    assert read_tensorboard(tmp_path, "val_accuracy") == [(0, 0.25), (1, 0.25)]


def test_curves_are_drawn(tmp_path):
    log_epochs(tmp_path, 0, [3.0])
    before = np.asarray(Image.open(tmp_path / "curves.png").convert("L"))
    log_epochs(tmp_path, 1, [2.0, 1.0])
    after = np.asarray(Image.open(tmp_path / "curves.png").convert("L"))
    assert before.shape == after.shape == (432, 1080)
    assert (before < 200).sum() > 1000
    assert (before != after).sum() > 1000


def test_an_epoch_that_is_repeated_is_logged_once(tmp_path):
    log_epochs(tmp_path, 0, [3.0, 2.0, 9.0])
    log_epochs(tmp_path, 2, [1.5, 1.0])
    losses = [(0, 3.0), (1, 2.0), (2, 1.5), (3, 1.0)]
    assert [(e["epoch"], e["loss"]) for e in read_jsonl(tmp_path)] == losses
    assert [(int(e["epoch"]), float(e["loss"])) for e in read_csv(tmp_path)] == losses
    assert read_tensorboard(tmp_path, "loss") == losses


def test_a_log_without_epochs_that_were_removed_holds_each_once(tmp_path):
    log_epochs(tmp_path, 3, [3.0, 2.0, 9.0])  # the first three are lost
    log_epochs(tmp_path, 5, [1.0])
    losses = [(3, 3.0), (4, 2.0), (5, 1.0)]
    assert [(e["epoch"], e["loss"]) for e in read_jsonl(tmp_path)] == losses


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "null", '{"loss": 1.0}', '{"epoch": "1"}', '{"epoch": 1}', "\xff"],
)
def test_a_damaged_log_is_said(tmp_path, line):
    log_epochs(tmp_path, 0, [3.0])
    before = (tmp_path / "log.jsonl").read_bytes()
    (tmp_path / "log.jsonl").write_bytes(before + line.encode("latin-1") + b"\n")
    with pytest.raises(ValueError, match=r"log\.jsonl is damaged \(.*\); remove it"):
        log_epochs(tmp_path, 2, [1.0])


def test_a_pipe_in_the_place_of_a_log_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "log.jsonl")
    with pytest.raises(ValueError, match="is not a regular file"):
        read_log(tmp_path / "log.jsonl")
    os.mkfifo(tmp_path / "step_00000001.weights.h5")
    with pytest.raises(ValueError, match="is not a regular file"):
        states.read(tmp_path / "step_00000001.weights.h5")


def test_a_log_with_an_epoch_twice_is_said(tmp_path):
    log_epochs(tmp_path, 0, [3.0])
    line = (tmp_path / "log.jsonl").read_bytes()
    (tmp_path / "log.jsonl").write_bytes(line * 2)
    with pytest.raises(ValueError, match="its epochs are not in order"):
        log_epochs(tmp_path, 1, [1.0])


@pytest.mark.parametrize("name", ["log.jsonl", "log.csv", "curves.png"])
def test_a_log_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / name).mkdir()
    if name == "log.jsonl":
        with pytest.raises(ValueError, match=r"log\.jsonl is damaged"):
            log_epochs(tmp_path, 0, [3.0])
        return
    with pytest.raises(OSError, match=f"{name} cannot be written"):
        log_epochs(tmp_path, 0, [3.0])


def test_scalars_that_do_not_fit_end_the_training(tmp_path):
    scalars = Scalars(tmp_path)
    scalars.begin([{"epoch": 0, "loss": 3.0}])
    before = files_in(tmp_path)
    with (
        no_file_over(scalars.file.stat().st_size + 10),
        pytest.raises(OSError, match="events.* cannot be written"),
    ):
        scalars.add({"epoch": 1, "loss": 2.0})
    assert files_in(tmp_path) == before


def test_without_wandb_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r'pip install "keras_cbvit\[wandb\]"'):
        require_wandb()
    # A folder of this name, as wandb makes it, is no package.
    monkeypatch.delitem(sys.modules, "wandb")
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ImportError, match="--wandb requires the package wandb"):
        require_wandb()
