"""A recipe that trains in a second or two."""

import contextlib
import dataclasses
import json
from unittest import mock

from recipes.experiment import Experiment, Run
from recipes.network import Network
from recipes.options.classification import NO_AUGMENTATION, Data, Training
from recipes.training.callbacks import Checkpoints

SMALL = Experiment(
    Network(
        patch_size=4,
        hidden_dim=16,
        depth=1,
        num_heads=2,
        mlp_ratio=2,
        drop_path_rate=0.0,
    ),
    Data(dataset="digits", image_size=(8, 8)),
    dataclasses.replace(NO_AUGMENTATION, shift=1),
    Training(epochs=3, global_batch_size=256, base_learning_rate=4e-2, warmup_epochs=1),
    Run(checkpoint_steps=3, report=False),
)
STEPS_PER_EPOCH = 5


def small(run_dir, **changes):
    """The small experiment with other values of some fields, in a run folder."""
    groups = {}
    for field in dataclasses.fields(Experiment):
        group = getattr(SMALL, field.name)
        own = {key: changes.pop(key) for key in list(changes) if hasattr(group, key)}
        groups[field.name] = dataclasses.replace(group, **own)
    assert not changes, changes
    run = dataclasses.replace(groups.pop("run"), run_dir=run_dir)
    return Experiment(**groups, run=run)


def network_options():
    """The small network as options of the command line."""
    options = []
    for key, value in dataclasses.asdict(SMALL.network).items():
        if value != getattr(Network(), key):
            options += [f"--{key.replace('_', '-')}", str(value)]
    return options


@contextlib.contextmanager
def interrupted(step):
    """Training ends as by Ctrl-C after a step."""
    original = Checkpoints.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        original(self, batch, logs)
        if self.step == step:
            raise KeyboardInterrupt

    patch = mock.patch.object(Checkpoints, "on_train_batch_end", on_train_batch_end)
    try:
        with patch:
            yield
    except KeyboardInterrupt:
        return
    raise AssertionError("Training ended before.")


def read_log(run_dir):
    """The epochs in a run folder's `log.jsonl`."""
    return [json.loads(line) for line in (run_dir / "log.jsonl").open()]
