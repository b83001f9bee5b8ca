"""Measures a model trained elsewhere and publishes it.

    python -m recipes.publish runs/cifar10/model.keras vitcb_ti.cifar10 \\
        --dataset cifar10 --trained-on CIFAR-10 \\
        --recipe "python -m recipes.train cifar10"

A segmentation model is measured as the config.json of its run folder says, else as the
config that the tag of its name is; --dataset, --data-dir and --test-split change it.

A .weights.h5 file does not say what model it is of. Load it in Python with
`ViTCB(weights=...)` and the arguments the model was built with, and save the model
as .keras.
"""

import dataclasses
from pathlib import Path

import tyro

from recipes.experiment import Data


@dataclasses.dataclass(frozen=True)
class TestImages:
    """The test images that the model is measured on, as in `recipes.evaluate`."""

    dataset: str | None = None
    """A TFDS name, a folder, an .npz file or digits; of a segmentation model that of
    its run if not given."""
    data_dir: Path | None = None
    """Where TFDS keeps its data sets, or the folder that a data set's folder is in."""
    test_split: str | None = None
    """The TFDS split, or the subfolder; that of the config, else "test"."""
    crop_fraction: float | None = None
    """The centre's share of the side that is kept; 1 if not given."""
    test_labels: Path | None = None
    """For a test folder without class folders, as for training."""
    strict: bool = False
    """Whether a picture that cannot be decoded is an error."""


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
    from keras_cbvit.pretrained.architectures import is_upernet
    from keras_cbvit.pretrained.publishing import in_float32, refuse_unpublishable
    from recipes.data.segmentation.pairs import load_pairs
    from recipes.data.sources import load_dataset
    from recipes.evaluation.sets import asked

    if publication.checkpoint.suffix != ".keras":
        raise ValueError(
            f"{publication.checkpoint} is not a .keras file, which says what model it "
            "holds; see --help."
        )
    model = keras_cbvit.load_model(publication.checkpoint)
    name, folder = publication.name, publication.weights_dir
    refuse_unpublishable(model, name, folder, publication.overwrite)
    model = in_float32(model)  # as it is published, whatever it was trained in
    facts = {
        key: getattr(publication, key)
        for key in ("trained_on", "recipe", "licence", "notes", "overwrite")
    }
    if is_upernet(model):
        data = _segmentation_data(publication)
        return measure_and_publish_segmenter(
            model, name, folder, load_pairs(data), data, **facts
        )
    test = publication.test
    if test.dataset is None:
        raise ValueError("There is nothing to measure the model on; give --dataset.")
    data = Data(dataset=test.dataset, strict=test.strict)
    dataset = load_dataset(asked(data, test, model.input_shape[1:3]), train=False)
    return measure_and_publish(model, name, folder, dataset, **facts)


def _segmentation_data(publication):
    """The `Data` of a segmentation model's run with what the options say otherwise."""
    from recipes.evaluation.segmenters import data_of, refuse_other_tag

    given = {
        key: value
        for key, value in vars(publication.test).items()
        if value != getattr(TestImages, key)
    }
    meant = ("dataset", "data_dir", "test_split")
    if others := [key for key in given if key not in meant]:
        raise ValueError(f"{others[0]}={given[others[0]]!r} is for classifiers.")
    tag = publication.name.partition(".")[2]
    data = data_of(str(publication.checkpoint), given, tag)
    refuse_other_tag(publication.name, data)
    return data


def measure_and_publish(model, name, weights_dir, dataset, **facts):
    """Publishes a classifier with its measured accuracy on a data set's test images.

    The classes are the model's own; if it does not know their names, the data set's.
    """
    from recipes.evaluation import measure
    from recipes.evaluation.classifiers import Classifier
    from recipes.evaluation.matching import matched

    names = model.class_names
    split, *_ = matched(Classifier(name, model, names), None, dataset)
    measured = measure(model, split)
    right, total = measured["right"], measured["images"]
    measured_on = f"{dataset.description}, {right} of {total} test images right"
    if left_out := split.broken + len(split) - total:
        measured_on += f", without {left_out} that cannot be decoded"
    facts |= {
        "metric": "top-1 accuracy",
        "value": measured["top1"],
        "measured_on": measured_on,
        "images": dataset.test.first(16).images,
        "class_names": names or dataset.class_names,
    }
    return _publish(model, name, weights_dir, facts)


def measure_and_publish_segmenter(model, name, weights_dir, dataset, data, **facts):
    """Publishes a segmentation model with its mean IoU on a data set's test pictures.

    The data set is `load_pairs(data)`.
    """
    from recipes.evaluation import pixels
    from recipes.evaluation.matching import matched_pairs

    scale = data.scale
    pairs, names = matched_pairs(name, model, dataset.test, dataset.class_names)
    measured = pixels.measure(model, pairs, scale)
    measured_on = (
        f"{dataset.description}, {data.test_split}, {measured['images']} whole "
        f"images at the scale {scale[0]}×{scale[1]}, {measured['pixels']:,} "
        "labelled pixels"
    )
    if left_out := pixels.left_out(measured, names):
        measured_on += f", {left_out}"
    facts |= {
        "metric": "mean IoU",
        "value": measured["mean_iou"],
        "measured_on": measured_on,
        "images": pixels.first_input(model, pairs, scale),
        "class_names": names,
    }
    return _publish(model, name, weights_dir, facts)


def _publish(model, name, weights_dir, facts):
    """Publishes a measured model, and says so."""
    import keras_cbvit

    facts["dataset"] = facts.pop("trained_on")
    record = keras_cbvit.publish(model, name, weights_dir, **facts)
    print(
        f"Published {Path(weights_dir) / record.filename}: {record.metric} "
        f"{record.value:.4f} on {record.measured_on}."
    )
    return record


def main(arguments=None):
    from recipes.commands import parse, say_errors

    publication = parse("recipes.publish", Publication, __doc__, arguments)
    with say_errors():
        publish_checkpoint(publication)


if __name__ == "__main__":
    main()
