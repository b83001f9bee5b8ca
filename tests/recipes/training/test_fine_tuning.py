"""The options of fine-tuning, from published weights to a saved model."""

import dataclasses
import re

import keras
import numpy as np
import pytest

import keras_cbvit
from recipes.configs import imagenet_anneal
from recipes.experiment import with_changes
from recipes.network import Network
from recipes.tasks import task_of
from recipes.train import main, train
from recipes.training import states
from recipes.training.callbacks import Checkpoints
from tests.recipes.small import STEPS_PER_EPOCH, interrupted, read_log, small
from tests.tiny import assert_same_values, first_on_each_backend, values

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The file of a plain ViT that was trained on digits."""
    folder = tmp_path_factory.mktemp("plain")
    train(small(folder, broadcast="none"))
    return folder / "model.keras"


def tuning(plain, run_dir, broadcast="none", **options):
    experiment = small(run_dir, **{"warmup_epochs": 0, **options})
    network = Network(weights=str(plain), broadcast=broadcast)
    return dataclasses.replace(experiment, network=network)


def weights_of(file):
    model = keras.saving.load_model(file)
    return {name: weight.numpy() for name, weight in model.weights_by_name().items()}


def changed(before, after):
    return {name for name in before if (before[name] != after[name]).any()}


@pytest.mark.any_backend
def test_a_frozen_backbone_is_that_of_the_weights(plain, tmp_path):
    model, _ = train(tuning(plain, tmp_path, freeze="backbone"))
    before, after = weights_of(plain), weights_of(tmp_path / "model.keras")
    assert changed(before, after) == {"head/kernel", "head/bias"}
    assert len(model.trainable_weights) == len(model.weights)  # for the next one


@pytest.mark.any_backend
def test_what_is_frozen_takes_no_memory_of_the_optimizer(plain, tmp_path):
    experiment = tuning(plain, tmp_path, freeze="backbone", epochs=1)
    optimizers = []

    class Watched(Checkpoints):
        def on_epoch_end(self, epoch, logs=None):
            optimizers.append(self.model.optimizer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recipes.training.callbacks.Checkpoints", Watched)
        train(experiment)
    # The number of updates, and two moments of kernel and bias.
    assert len(optimizers[0].variables) == 5


def weights_by_step(experiment):
    """The weights after each step of a run, and what `train` gives."""
    found = {}
    original = Checkpoints.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        original(self, batch, logs)
        states.sync(self.model)
        found[self.step] = {w.path: w.numpy().copy() for w in self.model.weights}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", on_train_batch_end)
        return found, *train(experiment)


def test_the_head_is_trained_first(plain, tmp_path):
    experiment = tuning(plain, tmp_path, head_warmup_epochs=2)
    after, _, _ = weights_by_step(experiment)
    before, step = weights_of(plain), 2 * STEPS_PER_EPOCH
    assert changed(before, after[step]) == {"head/kernel", "head/bias"}
    assert changed(before, after[step + 1]) == set(before)


@pytest.mark.any_backend
def test_a_small_layer_decay_hardly_changes_the_embedding(plain, tmp_path):
    train(tuning(plain, tmp_path, layer_decay=0.1, weight_decay=0.0))
    before, after = weights_of(plain), weights_of(tmp_path / "model.keras")
    # AdamW's steps are alike in size: 0.01 of the head's for the embedding.
    moved = {
        name: np.abs(after[name] - before[name]).mean()
        for name in ("patch_embedding/projection/kernel", "head/kernel")
    }
    shares = moved["patch_embedding/projection/kernel"] / moved["head/kernel"]
    assert 0.002 < shares < 0.05


OPTIONS = {
    "lora": {
        "broadcast": "cbs",
        "lora_rank": 2,
        "lora_targets": ("qkv", "fc2"),
        "layer_decay": 0.5,
        "freeze": "backbone",
        "ema_decay": 0.9,
    },
    "anneal": {"broadcast": "cbs", "anneal_context": 7, "ema_decay": 0.9},
    "warmup": {"head_warmup_epochs": 1, "layer_decay": 0.5},
}


@pytest.mark.parametrize("name", first_on_each_backend(OPTIONS))
def test_an_interrupted_run_ends_as_one_without(plain, tmp_path, name):
    options = {"epochs": 2, **OPTIONS[name]}
    whole, _ = train(tuning(plain, tmp_path / "whole", **options))
    experiment = tuning(plain, tmp_path / "parts", **options)
    with interrupted(step=8):  # after the checkpoint of step 6
        train(experiment)
    parts, _ = train(experiment)
    assert_same_values(values(parts), values(whole))
    before = weights_of(plain)
    after = {**before, **values(whole)}
    if name == "lora":
        assert changed(before, {path: after[path] for path in before}) == {
            f"block_0/{layer}/kernel" for layer in ("attention/qkv", "mlp/fc2")
        } | {"head/kernel", "head/bias"}
        assert after["block_0/mlp/context_broadcast/scale"].any()
    assert changed(before, after)


@pytest.mark.any_backend
def test_lora_is_merged_into_what_is_saved(plain, tmp_path):
    experiment = tuning(
        plain,
        tmp_path,
        lora_rank=2,
        publish="vit_tests.lora",
        weights_dir=tmp_path / "weights",
    )
    model, dataset = train(experiment)
    before, after = weights_of(plain), weights_of(tmp_path / "model.keras")
    (published,) = (tmp_path / "weights").glob("*.keras")
    assert_same_values(weights_of(published), after)
    assert changed(before, after) == {"head/kernel", "head/bias"} | {
        f"block_0/{layer}/kernel"
        for layer in ("attention/qkv", "attention/projection", "mlp/fc1", "mlp/fc2")
    }
    for name in changed(before, after) - {"head/kernel", "head/bias"}:
        assert np.linalg.matrix_rank(after[name] - before[name], tol=1e-5) == 2
    # The log has what the model with LoRA predicted.
    images = np.asarray(dataset.test.images)
    right = model.predict(images, verbose=0).argmax(axis=1) == dataset.test.labels
    assert right.mean() == pytest.approx(read_log(tmp_path)[-1]["val_accuracy"])


@pytest.mark.any_backend
def test_context_is_annealed_and_folded(plain, tmp_path):
    experiment = tuning(plain, tmp_path, "cbs", anneal_context=8)
    after, model, dataset = weights_by_step(experiment)
    for step, weights in after.items():
        expected = np.full(16, min(step / 8, 1))
        found = weights["block_0/mlp/context_broadcast/scale"]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert step == 3 * STEPS_PER_EPOCH
    assert model.spec.broadcast == "cb"
    images = np.asarray(dataset.test.images)
    right = model.predict(images, verbose=0).argmax(axis=1) == dataset.test.labels
    assert right.mean() == pytest.approx(read_log(tmp_path)[-1]["val_accuracy"])


@pytest.mark.any_backend
def test_an_annealed_model_is_published_as_cb(plain, tmp_path):
    options = {"broadcast": "cbs", "anneal_context": 8, "ema_decay": 0.9}
    experiment = tuning(plain, tmp_path / "run", **options)
    named = with_changes(
        experiment,
        run={"publish": "vitcb_tests.annealed", "weights_dir": tmp_path / "weights"},
    )
    train(named)
    (file,) = (tmp_path / "weights").glob("*.keras")
    assert keras.saving.load_model(file).spec.broadcast == "cb"
    averages = keras.saving.load_model(tmp_path / "run" / "model_ema.keras")
    assert averages.spec.broadcast == "cb"


REFUSED = {
    "freeze='backbone' would freeze random weights; set --weights": {
        "weights": None,
        "freeze": "backbone",
    },
    "lora_rank=2 cannot be combined with anneal_context=3": {
        "broadcast": "cbs",
        "lora_rank": 2,
        "anneal_context": 3,
    },
    "lora_blocks=(0,) requires LoRA; set --lora-rank": {"lora_blocks": (0,)},
    "lora_targets=('qkv',) requires LoRA": {"lora_targets": ("qkv",)},
    "blocks=(1,) must be ascending indices": {
        "lora_rank": 2,
        "lora_blocks": (1,),
    },
    "layer_decay=0.5 has no effect on a frozen backbone": {
        "freeze": "backbone",
        "layer_decay": 0.5,
    },
    "head_warmup_epochs=1 has no effect on a frozen backbone": {
        "freeze": "backbone",
        "head_warmup_epochs": 1,
    },
    "has no Λ; only CB_S models": {"anneal_context": 3},
    "anneal_context=16 exceeds the 15 updates": {
        "broadcast": "cbs",
        "anneal_context": 16,
    },
    "layer_decay=2 must be between": {"layer_decay": 2},
}


@pytest.mark.parametrize("message", REFUSED)
@pytest.mark.any_backend
def test_options_without_an_effect_are_refused(plain, tmp_path, message):
    options = {"weights": plain, **REFUSED[message]}
    weights = options.pop("weights")
    experiment = tuning(plain, tmp_path / "run", **options)
    if weights is None:
        experiment = with_changes(experiment, network={"weights": None})
    with pytest.raises(ValueError, match=re.escape(message)):
        train(experiment)
    assert not (tmp_path / "run").exists()


@pytest.mark.any_backend
def test_a_scale_that_is_not_0_is_not_annealed(plain, tmp_path):
    experiment = tuning(plain, tmp_path / "run", "cbs", anneal_context=3)
    experiment = with_changes(experiment, network={"initial_scale": 0.5})
    with pytest.raises(ValueError, match="increases Λ from 0 to 1, but Λ of block_0"):
        train(experiment)


@pytest.mark.any_backend
def test_smoke_of_the_annealing_of_cifar10(tmp_path):
    options = ["--dataset", "digits", "--image-size", "32", "32", "--smoke"]
    main(["cifar10_anneal", *options, "--run-dir", str(tmp_path / "run")])
    model = keras_cbvit.load_model(tmp_path / "run_smoke" / "model.keras")
    assert (model.spec.broadcast, model.spec.hidden_dim) == ("cb", 64)


@pytest.mark.any_backend
def test_smoke_of_the_annealing_of_imagenet(plain, tmp_path):
    experiment = imagenet_anneal.config()
    assert task_of(experiment).name == "classification"
    options = ["--dataset", "digits", "--image-size", "8", "8", "--smoke"]
    options += ["--weights", str(plain), "--broadcast", "cbs"]
    main(["imagenet_anneal", *options, "--run-dir", str(tmp_path / "run")])
    model = keras_cbvit.load_model(tmp_path / "run_smoke" / "model.keras")
    assert model.spec.broadcast == "cb"
