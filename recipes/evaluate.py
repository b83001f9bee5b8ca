"""Measures the accuracy of published or saved models.

python -m recipes.evaluate vitcb_ti.cifar10 --data-dir DIR
"""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import tyro

from recipes.data.batches import Batches
from recipes.data.sources import load_dataset
from recipes.experiment import Data


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured, and on what."""

    model: tyro.conf.Positional[str]
    """Name of published weights, or path of a .keras file."""
    dataset: str | None = None
    """As for training; the tag of published weights if not given."""
    data_dir: Path | None = None
    """Where TFDS keeps its data sets."""
    test_split: str = "test"
    crop_fraction: float = 1.0
    batch_size: int = 250


def count_right(model, split, batch_size=250):
    """How many images of a split a classifier names right, each counted once."""
    batches = Batches(split, model.output_shape[-1], batch_size)
    predictions = model.predict(batches, verbose=0)[: len(split)]
    return int((np.argmax(predictions, axis=-1) == split.labels).sum())


def evaluate(options):
    """Runs an `Evaluation`; returns the number of right and of all images."""
    import keras_cbvit

    dataset = options.dataset or options.model.partition(".")[2]
    if dataset == "keras":
        raise ValueError(
            f"{options.model} does not say what to measure it on; give --dataset."
        )
    model = keras_cbvit.ViTCB(weights=options.model)
    data = Data(
        dataset=dataset,
        data_dir=options.data_dir,
        train_split=options.test_split,
        test_split=options.test_split,
        image_size=model.input_shape[1:3],
        crop_fraction=options.crop_fraction,
    )
    split = load_dataset(data).test
    return count_right(model, split, options.batch_size), len(split)


def main(arguments=None):
    from recipes.commands import parse, say_errors

    options = parse(Evaluation, __doc__, arguments)
    with say_errors():
        right, total = evaluate(options)
    print(
        f"{options.model}: {right} of {total} test images right, top-1 accuracy "
        f"{right / total:.4f} ({keras.backend.backend()})"
    )


if __name__ == "__main__":
    main()
