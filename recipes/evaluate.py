"""Measures the accuracy of published or saved models.

python -m recipes.evaluate vitcb_ti.cifar10 --data-dir DIR
"""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import tyro

from keras_cbvit.pretrained.predictions import class_names
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
    """The TFDS split, or the subfolder of an image folder; "." for all of it."""
    crop_fraction: float = 1.0
    """The centre's share of the side that is kept; DeiT evaluates with 0.875."""
    batch_size: int = 250
    """Images that are predicted at once; it does not change the numbers."""


def count_right(model, split, batch_size=250):
    """How many images of a split a classifier names right, and of how many.

    Each counts once, but for pictures that cannot be decoded, which do not count.
    """
    batches = Batches(split, model.output_shape[-1], batch_size)
    predictions = model.predict(batches, verbose=0)[: len(split)]
    right = np.argmax(predictions, axis=-1) == split.labels
    right = np.delete(right, list(batches.broken))
    return int(right.sum()), len(right)


def evaluate(options):
    """Runs an `Evaluation`; returns the right and all images, and what they are.

    Raises:
        ValueError: if the classes of model and data set are not the same.
    """
    import keras_cbvit

    is_file = options.model.endswith(".keras")
    if is_file and options.dataset is None:
        raise ValueError(
            f"{options.model} does not say what to measure it on; give --dataset."
        )
    dataset = options.dataset or options.model.partition(".")[2]
    model = keras_cbvit.ViTCB(weights=options.model)
    data = Data(
        dataset=dataset,
        data_dir=options.data_dir,
        train_split=options.test_split,
        test_split=options.test_split,
        image_size=model.input_shape[1:3],
        crop_fraction=options.crop_fraction,
    )
    dataset = load_dataset(data, train=False)
    found = dataset.class_names
    # A file without a record does not know the names of its classes.
    names = found if is_file else class_names(options.model)
    if len(names) != model.output_shape[-1] or not set(found) <= set(names):
        raise ValueError(
            f"The {len(found)} classes of {dataset.description} ({_some(found)}) are "
            f"not among the {model.output_shape[-1]} of {options.model} "
            f"({_some(names)})."
        )
    labels = np.array([names.index(name) for name in found])[dataset.test.labels]
    split = dataclasses.replace(dataset.test, labels=labels)
    right, total = count_right(model, split, options.batch_size)
    return right, total, dataset.description


def _some(names):
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def main(arguments=None):
    from recipes.commands import parse, say_errors

    options = parse("recipes.evaluate", Evaluation, __doc__, arguments)
    with say_errors():
        right, total, on = evaluate(options)
    print(
        f"{options.model}: {right} of {total} test images right, top-1 accuracy "
        f"{right / total:.4f} ({on}; {keras.backend.backend()})"
    )


if __name__ == "__main__":
    main()
