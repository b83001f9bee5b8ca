import csv
import json
import math

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from keras_cbvit.layers import DropPath
from recipes.training.callbacks import (
    Checkpoints,
    EpochLog,
    NonFiniteLossError,
    StopOnNonFiniteLoss,
)


def compiled_model(seed=0, scaled=False):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.layers.Dense(8), DropPath(0.5)])
    model.build((None, 3))
    optimizer = keras.optimizers.AdamW(0.01)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer=optimizer, loss="mse")
    optimizer.build(model.trainable_variables)
    return model


def train(model, steps=1):
    random = np.random.default_rng(0)
    for _ in range(steps):
        model.train_on_batch(random.normal(size=(4, 3)), random.normal(size=(4, 8)))


def state(model):
    """Every number that the next step depends on."""
    variables = [*model.variables, *model.optimizer.variables]
    return [ops.convert_to_numpy(v) for v in variables if "mean_metric" not in v.path]


def assert_same_state(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def checkpoints_of(model, folder, epochs=1):
    """Trains and saves; the states at each checkpoint."""
    checkpoints = Checkpoints(folder, steps_per_epoch=1, every=100)
    checkpoints.set_model(model)
    states = []
    for epoch in range(epochs):
        train(model)
        checkpoints.on_train_batch_end(0)
        checkpoints.on_epoch_end(epoch)
        states.append(state(model))
    return checkpoints, states


# Checkpoints


def test_the_last_three_checkpoints_are_kept_under_their_step(tmp_path):
    checkpoints, _ = checkpoints_of(compiled_model(), tmp_path / "new", epochs=5)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "step_00000003.weights.h5",
        "step_00000004.weights.h5",
        "step_00000005.weights.h5",
    ]
    assert checkpoints.newest() == tmp_path / "new" / "step_00000005.weights.h5"


def test_a_checkpoint_is_not_there_before_it_is_whole(tmp_path, monkeypatch):
    model = compiled_model()
    checkpoints, _ = checkpoints_of(model, tmp_path)

    def disk_is_full(path, **options):
        path.write_bytes(b"the first bytes")
        raise OSError("No space left on device")

    monkeypatch.setattr(model, "save_weights", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.on_epoch_end(1)
    assert checkpoints.saved() == [tmp_path / "step_00000001.weights.h5"]


@pytest.mark.parametrize("scaled", [False, True])
def test_a_checkpoint_brings_everything_back(tmp_path, scaled):
    checkpoints, states = checkpoints_of(compiled_model(scaled=scaled), tmp_path, 2)
    other = compiled_model(seed=1, scaled=scaled)
    assert checkpoints.restore(other) == 2
    assert_same_state(state(other), states[1])
    assert int(other.optimizer.iterations) == 2


def test_training_goes_on_from_a_checkpoint_as_if_never_stopped(tmp_path):
    model = compiled_model()
    checkpoints, _ = checkpoints_of(model, tmp_path)
    train(model, steps=3)
    other = compiled_model(seed=1)
    checkpoints.restore(other)
    train(other, steps=3)
    assert_same_state(state(other), state(model))


def test_without_checkpoints_a_model_stays_as_it_is(tmp_path):
    model = compiled_model()
    before = model.get_weights()
    assert Checkpoints(tmp_path / "none", 1, 1).restore(model) == 0
    assert_same_state(model.get_weights(), before)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kept", [0, 1000, -1])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, kept, scaled):
    checkpoints, states = checkpoints_of(compiled_model(scaled=scaled), tmp_path, 2)
    newest = checkpoints.newest()
    newest.write_bytes(newest.read_bytes()[:kept])
    other = compiled_model(seed=1, scaled=scaled)
    with pytest.warns(UserWarning, match=r"step_00000002.* is damaged and passed over"):
        assert checkpoints.restore(other) == 1
    assert_same_state(state(other), states[0])


def test_if_every_checkpoint_is_damaged_training_does_not_start_anew(tmp_path):
    checkpoints, _ = checkpoints_of(compiled_model(), tmp_path, 2)
    for path in checkpoints.saved():
        path.write_bytes(b"nothing")
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(ValueError, match=r"None of the checkpoints .* remove them"),
    ):
        checkpoints.restore(compiled_model())


# The alarm


def alarm(tmp_path, epochs=0):
    model = compiled_model()
    checkpoints, _ = checkpoints_of(model, tmp_path, epochs)
    stop = StopOnNonFiniteLoss(checkpoints)
    stop.set_model(model)
    return stop


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_the_last_checkpoint(tmp_path, loss):
    stop = alarm(tmp_path, epochs=2)
    stop.checkpoints.steps_per_epoch = 10
    stop.checkpoints.step = 27
    stop.on_train_batch_end(7, {"loss": 1e30})
    with pytest.raises(NonFiniteLossError) as error:
        stop.on_train_batch_end(7, {"loss": loss})
    assert str(error.value) == (
        f"The loss is {loss} after step 8 of epoch 3. The last good checkpoint is "
        f"{tmp_path / 'step_00000002.weights.h5'}. Lower the learning rate, warm up "
        "longer, or train in mixed_bfloat16 or float32, and start again in a new "
        "run_dir."
    )


def test_without_a_checkpoint_the_alarm_says_so(tmp_path):
    stop = alarm(tmp_path)
    with pytest.raises(NonFiniteLossError, match=r"of epoch 1\. None was saved\."):
        stop.on_train_batch_end(0, {"loss": math.nan})


def test_a_test_loss_that_is_not_finite_stops(tmp_path):
    stop = alarm(tmp_path)
    stop.checkpoints.step = 1
    stop.on_epoch_end(0, {"loss": 1.0, "val_loss": 2.0})
    with pytest.raises(NonFiniteLossError, match="The val_loss is nan after step 1 of"):
        stop.on_epoch_end(0, {"loss": 1.0, "val_loss": math.nan})


def test_a_weight_that_is_not_finite_stops(tmp_path):
    stop = alarm(tmp_path)
    stop.checkpoints.step = 1
    stop.model.set_weights([np.full((3, 8), np.inf), np.zeros(8)])
    with pytest.raises(
        NonFiniteLossError, match="kernel is not finite after step 1 of"
    ):
        stop.on_epoch_end(0, {"loss": 1.0})


# Logs


def log_epochs(folder, first_epoch, losses):
    """Logs these losses as those of the epochs from `first_epoch` on."""
    log = EpochLog(folder, first_epoch, 100, broken_images=lambda: 7)
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
