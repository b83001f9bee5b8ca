"""Measures the accuracy of published or saved models.

python -m recipes.evaluate vitcb_ti.cifar10 --data-dir DIR
"""

import dataclasses
import importlib
from pathlib import Path

import keras
import numpy as np
import tyro

from keras_cbvit.pretrained.predictions import class_names
from recipes.data.batches import Batches
from recipes.data.sources import load_dataset
from recipes.experiment import Data
from recipes.train import config_names


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured, and on what."""

    model: tyro.conf.Positional[str]
    """Name of published weights, or path of a .keras file."""
    dataset: str | None = None
    """As for training. If not given, published weights are measured on what the config
    of their tag says, with its split and its crop, or on the data set of that name."""
    data_dir: Path | None = None
    """Where TFDS keeps its data sets."""
    test_split: str | None = None
    """The TFDS split, or the subfolder of an image folder; "." for all of it. "test" if
    no config says otherwise."""
    crop_fraction: float | None = None
    """The centre's share of the side that is kept; DeiT evaluates with 0.875. 1 if no
    config says otherwise."""
    test_labels: Path | None = None
    """For a test folder without class folders, as for training."""
    strict: bool = False
    """Whether a picture that cannot be decoded is an error."""
    batch_size: int = 250
    """Images that are predicted at once; it does not change the numbers."""


def count_right(model, split, batch_size=250, strict=False):
    """How many images of a split a classifier names right, and of how many.

    Each counts once, but for pictures that cannot be decoded, which do not count.
    """
    batches = Batches(split, model.output_shape[-1], batch_size, strict=strict)
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
    model = keras_cbvit.ViTCB(weights=options.model)
    data = dataclasses.replace(_data(options), image_size=model.input_shape[1:3])
    dataset = load_dataset(data, train=False)
    found = dataset.class_names
    # A file without a record does not know the names of its classes.
    names = found if is_file else class_names(options.model)
    if is_file and len(found) != model.output_shape[-1]:
        raise ValueError(
            f"{dataset.description} has {len(found)} classes, but {options.model} "
            f"{model.output_shape[-1]}."
        )
    if not set(found) <= set(names):
        raise ValueError(
            f"The {len(found)} classes of {dataset.description} ({_some(found)}) are "
            f"not among the {len(names)} of {options.model} "
            f"({_some(names)})."
        )
    labels = np.array([names.index(name) for name in found])[dataset.test.labels]
    split = dataclasses.replace(dataset.test, labels=labels)
    right, total = count_right(model, split, options.batch_size, options.strict)
    description = dataset.description
    if left_out := split.broken + len(split) - total:
        description += f", without {left_out} that cannot be decoded"
    return right, total, description


def _data(options):
    """The data that are asked for, or those of the config that a tag names."""
    tag = options.model.partition(".")[2]
    if options.dataset is None and tag in config_names():
        data = importlib.import_module(f"recipes.configs.{tag}").config().data
    else:
        data = Data(dataset=options.dataset or tag)
    asked = {
        name: getattr(options, name)
        for name in ("data_dir", "test_split", "crop_fraction", "test_labels")
        if getattr(options, name) is not None
    }
    data = dataclasses.replace(data, strict=options.strict, **asked)
    return dataclasses.replace(data, train_split=data.test_split)


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
