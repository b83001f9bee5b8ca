"""What only the real UperNet shows: its layers have a precision, the model has none."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from recipes.data.feed import Feed
from recipes.data.segmentation.pairs import load_pairs
from recipes.experiment import Experiment, Run
from recipes.network import Network
from recipes.options.segmentation import Augmentation, Data, Training
from recipes.tasks import TASKS
from recipes.training.hand_over import hand_over
from tests.recipes.test_segment import write_pictures
from tests.tiny import first_on_each_backend

TINY = Experiment(
    network=Network(
        patch_size=4,
        hidden_dim=8,
        depth=4,
        num_heads=2,
        mlp_ratio=2,
        blocks=(0, 1, 2, 3),
        channels=4,
    ),
    data=Data(
        class_names=("red", "green", "blue"),
        ignored_label=11,
        scale=(24, 64),
        image_size=(16, 16),
    ),
    augmentation=Augmentation(),
    training=Training(
        iterations=4,
        global_batch_size=2,
        learning_rate=1e-3,
        warmup_iterations=0,
        evaluation_iterations=2,
    ),
)


def compiled(folder, precision):
    """The trainer of a tiny UperNet, and its batches."""
    data = dataclasses.replace(TINY.data, dataset=str(folder))
    experiment = dataclasses.replace(TINY, data=data, run=Run(precision=precision))
    task = TASKS["segmentation"]
    dataset = load_pairs(data)
    keras.utils.set_random_seed(0)
    batches = task.batches(experiment, dataset)
    classes = len(dataset.class_names)
    model = task.build(experiment.network, data, classes, precision)
    return task.compile(model, experiment, batches), batches[0]


@pytest.mark.parametrize(
    "precision",
    first_on_each_backend(["mixed_float16", "mixed_bfloat16", "float32"]),
)
def test_the_loss_is_scaled_in_float16(tmp_path, precision):
    trainer, crops = compiled(write_pictures(tmp_path), precision)
    is_scaled = isinstance(trainer.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (precision == "mixed_float16")
    if not is_scaled:
        return
    before = [ops.convert_to_numpy(v) for v in trainer.trainable_variables]
    with hand_over(Feed(crops, 0), 0, 4) as data:
        history = trainer.fit(data, steps_per_epoch=4, shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    # A step whose scaled gradients overflow is left out; not all of them do.
    steps = int(trainer.optimizer.inner_optimizer.iterations)
    scale = float(trainer.optimizer.dynamic_scale)
    assert steps > 0 and scale == 2.0 ** (15 - (4 - steps))
    changed = [
        np.abs(ops.convert_to_numpy(v) - old).max()
        for v, old in zip(trainer.trainable_variables, before, strict=True)
    ]
    assert np.isfinite(changed).all()
    # AdamW moves each weight by about the learning rate a step.
    assert 1e-4 < max(changed) < 1e-2
