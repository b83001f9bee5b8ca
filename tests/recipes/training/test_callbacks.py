import math

import keras
import numpy as np
import pytest
from keras import ops

from recipes.training.callbacks import (
    Checkpoints,
    NonFiniteLossError,
    StopOnNonFiniteLoss,
)
from tests.full_disk import files_in, no_file_over
from tests.recipes.training.compiled import compiled_model


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


def test_a_checkpoint_that_does_not_fit_leaves_those_before(tmp_path, capfd):
    model = compiled_model()
    checkpoints, states = checkpoints_of(model, tmp_path, 2)
    before = files_in(tmp_path)
    train(model)
    checkpoints.on_train_batch_end(0)
    with (
        no_file_over(checkpoints.newest().stat().st_size - 1),
        pytest.raises(OSError, match=r"step_00000003\..* cannot be written") as caught,
        checkpoints.add_checkpoint_note(),
    ):
        checkpoints.on_epoch_end(2)
    newest = tmp_path / "step_00000002.weights.h5"
    (note,) = caught.value.__notes__
    assert note.startswith(f"The last good checkpoint is {newest};")
    assert files_in(tmp_path) == before
    assert capfd.readouterr() == ("", "")  # HDF5 prints what it cannot write
    other = compiled_model(seed=1)
    assert checkpoints.restore(other) == 2
    assert_same_state(state(other), states[1])


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
@pytest.mark.any_backend
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, kept, scaled):
    checkpoints, states = checkpoints_of(compiled_model(scaled=scaled), tmp_path, 2)
    newest = checkpoints.newest()
    newest.write_bytes(newest.read_bytes()[:kept])
    other = compiled_model(seed=1, scaled=scaled)
    with pytest.warns(UserWarning, match=r"Skipped the damaged .*step_00000002"):
        assert checkpoints.restore(other) == 1
    assert_same_state(state(other), states[0])


DAMAGES = {
    "bit": lambda content, at, random: (
        content[:at]
        + bytes([content[at] ^ 1 << random.integers(8)])
        + content[at + 1 :]
    ),
    "zeros": lambda content, at, random: (
        content[:at] + bytes(len(content[at : at + 512])) + content[at + 512 :]
    ),
    "noise": lambda content, at, random: (
        content[:at] + random.bytes(len(content[at : at + 64])) + content[at + 64 :]
    ),
    "truncated": lambda content, at, random: content[:at],
    "missing": lambda content, at, random: content[:at] + content[at + 8 :],
    "longer": lambda content, at, random: content + random.bytes(8),
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.any_backend
def test_no_damage_is_gone_on_with(tmp_path, kind):
    checkpoints, states = checkpoints_of(compiled_model(), tmp_path, 2)
    newest = checkpoints.newest()
    whole = newest.read_bytes()
    other = compiled_model(seed=1)
    for seed in range(10):
        random = np.random.default_rng(seed)
        damaged = DAMAGES[kind](whole, random.integers(len(whole)), random)
        if damaged == whole:  # zeros that were
            continue
        newest.write_bytes(damaged)
        other.set_weights([np.zeros(w.shape) for w in other.weights])
        with pytest.warns(UserWarning, match=r"damaged checkpoint .*step_00000002"):
            assert Checkpoints(tmp_path, 1, 100).restore(other) == 1
        assert_same_state(state(other), states[0])


def test_a_checkpoint_of_another_step_is_damaged(tmp_path):
    checkpoints, states = checkpoints_of(compiled_model(), tmp_path, 2)
    checkpoints.newest().rename(checkpoints.path(9))
    other = compiled_model(seed=1)
    with pytest.warns(UserWarning, match=r"step_00000009.* \(its checksum is wrong"):
        assert checkpoints.restore(other) == 1
    assert_same_state(state(other), states[0])


def test_a_checkpoint_is_weights_for_keras(tmp_path):
    model = compiled_model()
    checkpoints, _ = checkpoints_of(model, tmp_path)
    other = compiled_model(seed=1)
    other.load_weights(checkpoints.newest())
    assert_same_state(other.get_weights(), model.get_weights())


def test_damaged_checkpoints_do_not_push_out_good_ones(tmp_path):
    checkpoints_of(compiled_model(), tmp_path, 6)
    names = [path.name for path in sorted(tmp_path.iterdir())]
    for step in (7, 8):
        (tmp_path / f"step_0000000{step}.weights.h5").write_bytes(b"nothing")
    (tmp_path / names[-1]).write_bytes(b"nothing")
    (tmp_path / "step_x.weights.h5").write_bytes(b"of somebody else")
    model = compiled_model(seed=1)
    checkpoints = Checkpoints(tmp_path, steps_per_epoch=1, every=100)
    checkpoints.set_model(model)
    with pytest.warns(UserWarning, match="the damaged checkpoint"):
        assert checkpoints.restore(model) == 5
    assert checkpoints.newest().name == names[1]
    train(model)
    checkpoints.on_train_batch_end(0)
    checkpoints.on_epoch_end(5)
    assert [path.name for path in checkpoints.paths()] == names
    with pytest.warns(UserWarning, match="damaged checkpoint .*step_00000008"):
        assert Checkpoints(tmp_path, 1, 100).restore(compiled_model()) == 6


def test_a_checkpoint_of_another_model_is_not_passed_over(tmp_path):
    checkpoints, _ = checkpoints_of(compiled_model(), tmp_path, 2)
    wider = keras.Sequential([keras.layers.Dense(5)])
    wider.build((None, 3))
    wider.compile(optimizer="adamw", loss="mse")
    other_optimizer = compiled_model(seed=1)
    other_optimizer.compile(optimizer="sgd", loss="mse")
    for model in (wider, other_optimizer):
        with pytest.raises(ValueError, match="step_00000002.* does not match the"):
            checkpoints.restore(model)


def test_if_every_checkpoint_is_damaged_training_does_not_start_anew(tmp_path):
    checkpoints, _ = checkpoints_of(compiled_model(), tmp_path, 2)
    for path in checkpoints.paths():
        path.write_bytes(b"nothing")
    with (
        pytest.warns(UserWarning, match="the damaged checkpoint"),
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
        "longer, or train in mixed_bfloat16 or float32, in a new --run-dir."
    )


def test_without_a_checkpoint_the_alarm_says_so(tmp_path):
    stop = alarm(tmp_path)
    with pytest.raises(NonFiniteLossError, match=r"of epoch 1\. No checkpoint was"):
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
