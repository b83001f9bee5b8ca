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

from keras_cbvit import Evaluation
from recipes.experiment import Data

# What a record has of what is measured, the most important first.
METRICS = {
    "classification": ("top1", "top5", "loss", "ece"),
    "segmentation": ("mean_iou", "pixel_accuracy"),
}


@dataclasses.dataclass(frozen=True)
class TestImages:
    """The test images that the model is measured on, as in `recipes.evaluate`."""

    dataset: str | None = None
    """A TFDS name, a folder, an .npz file or digits; of a segmentation model that of
    its run if not given."""
    data_dir: Path | None = None
    """Where TFDS keeps its data sets, or the folder that a data set's folder is in."""
    test_split: str | None = None
    """The TFDS split, or the subfolder; "test", or that of the run, if not given."""
    crop_fraction: float | None = None
    """The center's share of the side that is kept; 1 if not given."""
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
    check_publishable(model, name, folder, publication.overwrite)
    model = in_float32(model)  # as it is published, whatever it was trained in
    facts = {
        key: getattr(publication, key)
        for key in ("trained_on", "recipe", "license", "notes", "overwrite")
    }
    if isinstance(model, keras_cbvit.SegmentationModel):
        data = _segmentation_data(publication)
        return measure_and_publish_segmenter(
            model, name, folder, load_pairs(data), data, **facts
        )
    test = publication.test
    if test.dataset is None:
        raise ValueError("There is nothing to measure the model on; give --dataset.")
    data = Data(dataset=test.dataset, strict=test.strict)
    data = asked(data, test, model.input_shape[1:3])
    dataset = load_dataset(data, train=False)
    return measure_and_publish(model, name, folder, dataset, data, **facts)


def _segmentation_data(publication):
    """The `Data` of a segmentation model's run with what the options say otherwise."""
    from recipes.evaluation.segmenters import data_of

    given = {
        key: value
        for key, value in vars(publication.test).items()
        if value != getattr(TestImages, key)
    }
    meant = ("dataset", "data_dir", "test_split")
    if others := [key for key in given if key not in meant]:
        raise ValueError(f"{others[0]}={given[others[0]]!r} is for classifiers.")
    return data_of(str(publication.checkpoint), given)


def measure_and_publish(model, name, weights_dir, dataset, data, **facts):
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
    notes = f"{dataset.description}, {right} of {total} test images right"
    if left_out := split.broken + len(split) - total:
        notes += f", without {left_out} that cannot be decoded"
    evaluation = _evaluation("classification", name, data, measured, notes, {})
    facts |= {
        "evaluations": [evaluation],
        "crop_fraction": data.crop_fraction,
        "images": dataset.test.first(16).images,
        "class_names": names or dataset.class_names,
    }
    return _publish(model, name, weights_dir, facts)


def _evaluation(task, name, data, measured, notes, options):
    """The record of what was measured of a model on the test images of some data."""
    return Evaluation(
        task=task,
        dataset=_name_of(data.dataset),
        split=data.test_split,
        metrics={key: measured[key] for key in METRICS[task]},
        images=measured["images"],
        command=f"python -m recipes.evaluate {name} --data-dir DIR",
        options=options,
        notes=notes,
    )


def _name_of(dataset):
    """What a record calls a data set: of a path its last part, after `./`."""
    path = Path(dataset).expanduser()
    is_path = path.is_absolute() or path.exists() or dataset.startswith(".")
    return f"./{path.name}" if is_path and dataset != "digits" else dataset


def measure_and_publish_segmenter(model, name, weights_dir, dataset, data, **facts):
    """Publishes a segmentation model with its mean IoU on a data set's test pictures.

    The data set is `load_pairs(data)`.
    """
    from recipes.evaluation import pixels
    from recipes.evaluation.matching import matched_pairs

    scale = data.scale
    pairs, names = matched_pairs(name, model, dataset.test, dataset.class_names)
    measured = pixels.measure(model, pairs, scale)
    notes = (
        f"whole images at the scale {scale[0]}×{scale[1]}, {measured['pixels']:,} "
        "labeled pixels"
    )
    if left_out := pixels.left_out(measured, names):
        notes += f", {left_out}"
    options = {
        "class_names": list(data.class_names),
        "ignored_label": data.ignored_label,
        "scale": list(scale),
    }
    facts |= {
        "evaluations": [
            _evaluation("segmentation", name, data, measured, notes, options)
        ],
        "images": pixels.first_input(model, pairs, scale),
        "class_names": names,
    }
    return _publish(model, name, weights_dir, facts)


def _publish(model, name, weights_dir, facts):
    """Publishes a measured model, and says so."""
    import keras_cbvit

    record = keras_cbvit.publish(model, name, weights_dir, **facts)
    (found,) = record.evaluations
    metric, value = next(iter(found.metrics.items()))
    print(
        f"Published {Path(weights_dir) / record.filename}: {metric} {value:.4f} on "
        f"{found.dataset}, {found.split} ({found.notes})."
    )
    return record


def main(arguments=None):
    from recipes.commands import parse, say_errors

    publication = parse("recipes.publish", Publication, __doc__, arguments)
    with say_errors():
        publish_checkpoint(publication)


if __name__ == "__main__":
    main()
