"""Evaluate an already trained model and publish it.

    python -m recipes.publish runs/cifar10/model.keras vitcb_ti.cifar10 \\
        --dataset cifar10 --trained-on CIFAR-10 \\
        --recipe "python -m recipes.train cifar10"

A segmentation model is evaluated as its run was, according to config.json in the run
folder; --dataset, --data-dir and --test-split override it.

A .weights.h5 file does not describe its model. Load it in Python with
`ViTCB(weights=...)` and the arguments of the original model, and save it as .keras.
"""

import dataclasses
from pathlib import Path

import tyro


@dataclasses.dataclass(frozen=True)
class TestImages:
    """The test images of the evaluation, as in `recipes.evaluate`."""

    dataset: str | None = None
    """Data set: a TFDS name, a folder, an .npz file or digits; a CSV file for a
    multi-label classifier. A segmentation model defaults to the data set of its run."""
    data_dir: str | None = None
    """Folder of the TFDS data sets, or parent folder of the data set's folder."""
    test_split: str | None = None
    """TFDS split, or subfolder; the run's split, or test, if not given."""
    crop_fraction: float | None = None
    """Fraction of each side that the center crop keeps, 0 to 1; 1 if not given."""
    image_size: tuple[int, int] | None = None
    """Height and width in pixels, for a model that accepts any size."""
    test_labels: Path | None = None
    """Text file of labels for a test folder without class folders, as in training."""
    strict: bool = False
    """Whether to stop at an image that cannot be decoded, rather than skip it."""


@dataclasses.dataclass(frozen=True)
class Publication:
    """The model, its metadata, and where to publish it."""

    checkpoint: tyro.conf.Positional[Path]
    """The .keras file of a model of this package."""
    name: tyro.conf.Positional[str]
    """Name to publish under, ARCHITECTURE.TAG, for instance vitcb_ti.cifar10."""
    recipe: str
    """How the model was trained: the command, or a reference."""
    trained_on: str
    """Name of the training data set."""
    test: TestImages = TestImages()
    weights_dir: Path = Path("weights")
    """Folder in which to publish."""
    license: str = "Apache-2.0"
    """SPDX identifier of the license of the published weights."""
    notes: str = ""
    """Additional Markdown for the model card."""
    overwrite: bool = False
    """Whether to replace published weights of the same name."""


def publish_checkpoint(publication):
    """Runs a `Publication`; returns the record.

    Raises:
        ValueError: if the file does not match the named model or the data set.
        OSError: if the checkpoint or the data set does not exist.
    """
    import keras_cbvit
    from keras_cbvit.pretrained.publishing import check_publishable, in_float32

    from .publishing import measure_and_publish
    from .tasks import task_of_model

    if publication.checkpoint.suffix != ".keras":
        raise ValueError(
            f"{publication.checkpoint} is not a .keras file, the only format that "
            "describes its model; see --help for how to convert .weights.h5 files."
        )
    model = keras_cbvit.load_model(publication.checkpoint)
    name, folder = publication.name, publication.weights_dir
    check_publishable(model, name, folder, publication.overwrite)
    model = in_float32(model)  # published models are always float32
    task = task_of_model(str(publication.checkpoint), model)
    data = task.data_to_publish(model, publication)
    facts = {
        key: getattr(publication, key)
        for key in ("trained_on", "recipe", "license", "notes", "overwrite")
    }
    dataset = task.load(data, train=False)
    return measure_and_publish(task, model, name, folder, dataset, data, **facts)


def main(arguments=None):
    from .commands import parse, report_errors

    publication = parse("publish", Publication, __doc__, arguments)
    with report_errors():
        publish_checkpoint(publication)


if __name__ == "__main__":
    main()
