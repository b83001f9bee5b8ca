"""Measures a model trained elsewhere and publishes it.

    python -m recipes.publish runs/cifar10/model.keras vitcb_ti.cifar10 \\
        --dataset cifar10 --trained-on CIFAR-10 \\
        --recipe "python -m recipes.train cifar10"

A .weights.h5 file does not say what model it is of. Load it in Python with
`ViTCB(weights=...)` and the arguments the model was built with, and save the model
as .keras.
"""

import dataclasses
from pathlib import Path

import tyro

from recipes.experiment import Data


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
    data: Data = Data()
    """The test images that the model is measured on."""
    weights_dir: Path = Path("weights")
    """Folder to publish into."""
    licence: str = "Apache-2.0"
    """SPDX identifier of the file's licence."""
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
    from keras_cbvit.pretrained.publishing import refuse_unpublishable
    from recipes.data.sources import load_dataset

    if publication.checkpoint.suffix != ".keras":
        raise ValueError(
            f"{publication.checkpoint} is not a .keras file, which says what model it "
            "holds; see --help."
        )
    model = keras_cbvit.ViTCB(weights=publication.checkpoint, dtype="float32")
    refuse_unpublishable(
        model, publication.name, publication.weights_dir, publication.overwrite
    )
    data = dataclasses.replace(publication.data, image_size=model.input_shape[1:3])
    dataset = load_dataset(data, train=False)
    return measure_and_publish(
        model,
        publication.name,
        publication.weights_dir,
        dataset,
        trained_on=publication.trained_on,
        recipe=publication.recipe,
        licence=publication.licence,
        notes=publication.notes,
        overwrite=publication.overwrite,
    )


def measure_and_publish(model, name, weights_dir, dataset, *, trained_on, **facts):
    """Publishes a classifier with its measured accuracy on a data set's test images."""
    import keras_cbvit
    from recipes.evaluation import measure

    measured = measure(model, dataset.test)
    right, total = measured["right"], measured["images"]
    record = keras_cbvit.publish(
        model,
        name,
        weights_dir,
        class_names=dataset.class_names,
        dataset=trained_on,
        metric="top-1 accuracy",
        value=measured["top1"],
        measured_on=f"{dataset.description}, {right} of {total} test images right",
        images=dataset.test.first(16).images,
        **facts,
    )
    print(
        f"Published {Path(weights_dir) / record.filename}: {right} of {total} test "
        "images right."
    )
    return record


def main(arguments=None):
    from recipes.commands import parse, say_errors

    publication = parse("recipes.publish", Publication, __doc__, arguments)
    with say_errors():
        publish_checkpoint(publication)


if __name__ == "__main__":
    main()
