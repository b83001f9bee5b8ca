"""Trains with `--feed tf.data` on two logical CPUs, in a process of its own.

    KERAS_BACKEND=tensorflow python -m tests.recipes.data.tf_data_runs FOLDER

`test_tf_data.py` runs it, and looks at what it leaves in the folder.
"""

import dataclasses
import shutil
import sys
from pathlib import Path
from unittest import mock

import tensorflow as tf

from recipes.options.classification import NO_AUGMENTATION, Augmentation
from recipes.train import train
from recipes.training import callbacks
from tests.recipes import imagenet
from tests.recipes.small import small
from tests.recipes.training.multi_device import UPDATES

# All that follows from the seed and the step, for digits.
REPEATABLE = dataclasses.replace(
    NO_AUGMENTATION, repeats=2, erasing=0.25, mixup_alpha=0.2
)


def on_digits(folder, **changes):
    """A run on digits, with all that the optimizer does."""
    policy = dataclasses.asdict(REPEATABLE) | UPDATES
    return small(folder, feed="tf.data", devices=2, **policy, **changes)


def on_imagenet(folder, **changes):
    """A run with RandAugment, too, on a tiny ImageNet in TFDS's files."""
    return small(
        folder,
        feed="tf.data",
        devices=2,
        dataset="imagenet2012",
        data_dir=imagenet.FOLDER,
        test_split="validation",
        image_size=(16, 16),
        global_batch_size=12,
        epochs=1,
        warmup_epochs=0,
        **dataclasses.asdict(Augmentation()),
        **changes,
    )


class CopyInTheMiddle(callbacks.Checkpoints):
    """Copies the run folder after a step, as if the run ended there.

    The last checkpoint then is that of the ninth step, in the middle of an update.
    """

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        if self.step == 10:
            folder = self.folder.parent
            shutil.copytree(folder, folder.parent / "service")


def main(folder):
    with mock.patch.object(callbacks, "Checkpoints", CopyInTheMiddle):
        train(on_digits(folder / "alone"))
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    address = dispatcher.target.partition("://")[2]
    worker = service.WorkerServer(service.WorkerConfig(dispatcher_address=address))
    through = {"data_service": dispatcher.target}
    train(on_digits(folder / "service", **through))
    train(on_imagenet(folder / "imagenet", **through))
    del worker


if __name__ == "__main__":
    main(Path(sys.argv[1]))
