"""Measures a model trained elsewhere and publishes it.

    python -m recipes.publish runs/cifar10/model.keras vitcb_ti.cifar10 \\
        --dataset cifar10 --trained-on CIFAR-10 \\
        --recipe "python -m recipes.train cifar10"

A segmentation model is measured as the config.json of its run folder says; --dataset,
--data-dir and --test-split change it.

A .weights.h5 file does not say what model it is of. Load it in Python with
`ViTCB(weights=...)` and the arguments the model was built with, and save the model
as .keras.
"""

import dataclasses
from pathlib import Path

import tyro


@dataclasses.dataclass(frozen=True)
class TestImages:
    """The test images that the model is measured on, as in `recipes.evaluate`."""

    dataset: str | None = None
    """A TFDS name, a folder, an .npz file or digits; a CSV file for a multi-label
    classifier; of a segmentation model that of its run if not given."""
    data_dir: str | None = None
    """Where TFDS keeps its data sets, or the folder that a data set's folder is in."""
    test_split: str | None = None
    """The TFDS split, or the subfolder; "test", or that of the run, if not given."""
    crop_fraction: float | None = None
    """The center's share of the side that is kept; 1 if not given."""
    image_size: tuple[int, int] | None = None
    """Height and width for a model that takes any."""
    test_labels: Path | None = None
    """For a test folder without class folders, as for training."""
    strict: bool = False
    """Whether an image that cannot be decoded is an error."""


@dataclasses.dataclass(frozen=True)
class Publication:
    """What is published, where, and what is said of it."""

    checkpoint: tyro.conf.Positional[Path]
    """A .keras file of a model of this package."""
    name: tyro.conf.Positional[str]
    """architecture.tag, for instance vitcb_ti.cifar10."""
    recipe: str
    """How the model was made: the command, or where to read about it."""
    trained_on: str
    """The data set the model was trained on."""
    test: TestImages = TestImages()
    weights_dir: Path = Path("weights")
    """Folder to publish into."""
    license: str = "Apache-2.0"
    """SPDX identifier of the file's license."""
    notes: str = ""
    """More Markdown for the model card."""
    overwrite: bool = False
    """Whether to replace published weights of this name."""


def publish_checkpoint(publication):
    """Runs a `Publication`; returns the record.

    Raises:
        ValueError: if the file is not of the model, or does not fit the data set.
        OSError: if the checkpoint or the data set is not there.
    """
    import keras_cbvit
    from keras_cbvit.pretrained.publishing import check_publishable, in_float32

    from .publishing import measure_and_publish
    from .tasks import task_of_model

    if publication.checkpoint.suffix != ".keras":
        raise ValueError(
            f"{publication.checkpoint} is not a .keras file, which says what model it "
            "holds; see --help."
        )
    model = keras_cbvit.load_model(publication.checkpoint)
    name, folder = publication.name, publication.weights_dir
    check_publishable(model, name, folder, publication.overwrite)
    model = in_float32(model)  # as it is published, whatever it was trained in
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
