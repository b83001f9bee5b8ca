"""Measures models side by side: accuracy, loss and calibration of classifiers, mean IoU
and pixel accuracy of segmentation models.

python -m recipes.evaluate vitcb_ti.cifar10 --data-dir DIR
python -m recipes.evaluate a.keras b.keras --on imagenet real imagenet-a=FOLDER
python -m recipes.evaluate a.keras --on FOLDER --under clean fgsm --epsilons 1 4
python -m recipes.evaluate runs/camvid --data-dir DIR
"""

import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import Literal

import keras
import tyro

from keras_cbvit import SegmentationModel
from keras_cbvit.files import write
from keras_cbvit.pretrained.sources import find_record
from recipes.evaluation import pixels
from recipes.evaluation.classifiers import (
    as_classifier,
    evaluation_of,
    load_model,
)
from recipes.evaluation.matching import matched
from recipes.evaluation.measuring import ATTACKS, measure
from recipes.evaluation.reports import condition_name, sentence, table
from recipes.evaluation.segmenters import (
    draw_segmenters,
    drawn_data,
    measure_segmenters,
)
from recipes.evaluation.sets import asked, data_of, load_set
from recipes.experiment import Data

BATCH_SIZE = 256  # images that are classified at once


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured, on what, and how."""

    models: tyro.conf.Positional[tuple[str, ...]]
    """Names of published weights, .keras files of any Keras classifier, or run
    folders; or the same of segmentation models, of which of the other options on,
    data-dir, test-split, batch-size, devices, pictures and json count."""
    on: tuple[str, ...] = ()
    """Sets of images: imagenet, imagenet-v2, real or imagenet-a, through TFDS or with
    =FOLDER from one; or any other that training takes: a TFDS name, a folder, an .npz
    file, digits. If not given, published weights are measured on what their record
    says, with its split and its crop, and segmentation models on what their run was
    evaluated on."""
    under: tuple[Literal["clean", "occlusion", "fgsm", "pgd"], ...] = ("clean",)
    """Conditions: the images as they are, with a black square of half the sides in the
    center, or attacked."""
    epsilons: tuple[float, ...] = (1.0,)
    """The most that an attack changes a value from 0 to 255 by."""
    data_dir: Path | None = None
    """Where TFDS keeps its data sets, or what the folder of a record's data set is
    in."""
    test_split: str | None = None
    """The TFDS split, or the subfolder of an image folder; "." for all of it. "test" if
    neither a record nor ImageNet's protocol says otherwise."""
    crop_fraction: float | None = None
    """The center's share of the side that is kept. 0.875, DeiT's, for ImageNet's sets,
    else 1 if no record says otherwise."""
    test_labels: Path | None = None
    """For a test folder without class folders, as for training."""
    real_labels: Path | None = None
    """The file real.json, for `real` from a folder or from TFDS's imagenet2012."""
    normalize: Literal["none", "unit", "symmetric", "imagenet", "caffe"] = "none"
    """What is done to images 0-255 for models of other packages that do not normalize
    them: to 0-1, to -1-1, by ImageNet's mean and deviation, or to BGR without mean."""
    image_size: tuple[int, int] | None = None
    """Height and width for models of other packages that take any."""
    strict: bool = False
    """Whether a picture that cannot be decoded is an error."""
    batch_size: int | None = None
    """Images that are predicted at once, 256 of classifiers and 8 of segmentation
    models on each device if not given; it does not change the numbers."""
    devices: int | None = None
    """How many devices of this machine, as for training, for attacks, too; it does not
    change the numbers. torch takes one."""
    pictures: Path | None = None
    """A .png file to draw some pictures in, of the first set, beside what segmentation
    models predict."""
    json: Path | None = None
    """A file to write the results to, too."""

    def conditions(self):
        """Each condition with its epsilon, which only attacks have."""
        for under in self.under:
            for epsilon in self.epsilons if under in ATTACKS else (None,):
                yield under, epsilon


def evaluate(options, report=lambda row: None):
    """Runs an `Evaluation`.

    Args:
        options: the `Evaluation`.
        report: a function that is called with each result as soon as it is there.

    Returns:
        The results: for each set, condition and model a dict of what was measured
        (`recipes.evaluation.metrics.measures`) and of `model`, `on`, `under`,
        `epsilon` and `backend`. Of segmentation models see
        `recipes.evaluation.segmenters.measure_segmenters`.

    Raises:
        ValueError: if the classes of a model and a set are not the same, or
            classifiers and segmentation models are asked for at once.
        OSError: if a file or a data set is not there.
    """
    from recipes.training.devices import distribute

    if not options.models:
        raise ValueError("There is no model to measure; see --help.")
    if not list(options.conditions()):
        raise ValueError("There is nothing to measure under; see --under, --epsilons.")
    if options.pictures is not None and options.pictures.suffix != ".png":
        raise ValueError(f"pictures={options.pictures} must be a .png file.")
    results = []
    load = functools.lru_cache(maxsize=1)(load_set)  # once for models of one size
    # Before anything else wakes the backend, which then has the devices it has.
    with distribute(options.devices, _batch_size(options, BATCH_SIZE)):
        models = [(name, load_model(name)) for name in options.models]
        if any(isinstance(model, SegmentationModel) for _, model in models):
            return _segmentation_rows(options, models, report)
        if options.pictures is not None:
            raise ValueError("pictures= is for segmentation models.")
        classifiers = [
            as_classifier(name, model, options.normalize, options.image_size)
            for name, model in models
        ]
        for on in options.on or (None,):
            rows = []
            for classifier in classifiers:
                data = _data(options, on, classifier)
                dataset = load(on or data.dataset, data, options.real_labels)
                for row in _rows(options, classifier, on, dataset):
                    report(row)
                    rows.append(row)
            # Models side by side: by condition first.
            number = len(rows) // len(classifiers)
            results += [row for i in range(number) for row in rows[i::number]]
    return results


def _segmentation_rows(options, models, report):
    """The results of segmentation models."""
    if others := [
        name for name, model in models if not isinstance(model, SegmentationModel)
    ]:
        raise ValueError(
            f"{others[0]} is no segmentation model, but others are; measure both kinds "
            "in a command each."
        )
    meant = ("models", "on", "data_dir", "test_split", "batch_size", "devices")
    meant += ("pictures", "json")
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name not in meant and value != field.default:
            raise ValueError(
                f"{field.name}={value!r} is for classifiers; {models[0][0]} is a "
                "segmentation model."
            )
    asked = {"data_dir": options.data_dir, "test_split": options.test_split}
    batch_size = _batch_size(options, pixels.BATCH_SIZE)
    on = options.on or (None,)
    # Said before anything is measured.
    drawn = drawn_data(models, on[0], asked) if options.pictures else None
    rows = measure_segmenters(models, on, asked, batch_size, report)
    if options.pictures is not None:
        draw_segmenters(models, drawn, batch_size, options.pictures)
    return rows


def _batch_size(options, each):
    """The batch that is asked for, or so many images on each device."""
    return options.batch_size or each * (options.devices or 1)


def _rows(options, classifier, on, dataset):
    """The results of a classifier on a set."""
    split, model, description = matched(classifier, on, dataset)
    labeled = len(split) if split.labels.ndim == 1 else split.labels.any(1).sum()
    for under, epsilon in options.conditions():
        progress = sys.stdout.isatty()
        if progress:
            print(
                f"{classifier.name} on {description}, {condition_name(under, epsilon)}"
            )
        found = measure(
            model,
            split,
            under,
            epsilon or 0.0,
            _batch_size(options, BATCH_SIZE),
            options.strict,
            progress,
        )
        row = {"model": classifier.name, "on": description}
        if left_out := split.broken + int(labeled) - found["images"]:
            row["on"] += f", without {left_out} that cannot be decoded"
        row |= {"under": under, "epsilon": epsilon, "backend": keras.backend.backend()}
        yield row | found


def _data(options, on, classifier):
    """The data that are asked for, or those of the model's record."""
    if on is not None:
        data = data_of(on, options.real_labels)
    elif (measured := evaluation_of(classifier.name, "classification")) is None:
        raise ValueError(
            f"{classifier.name} does not say what to measure it on; give --on."
        )
    else:
        dataset = measured.dataset
        if dataset.startswith("."):  # a folder or a file, which lies in data_dir
            dataset = str(Path(options.data_dir or ".", dataset).absolute())
        data = Data(
            dataset=dataset,
            test_split=measured.split,
            crop_fraction=find_record(classifier.name).preprocessing.crop_fraction,
        )
    data = dataclasses.replace(data, strict=options.strict)
    return asked(data, options, classifier.image_size)


def main(arguments=None):
    from recipes.commands import parse, say_errors

    options = parse("recipes.evaluate", Evaluation, __doc__, arguments)
    with say_errors():
        for file in (options.pictures, options.json):
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
        rows = evaluate(options, lambda row: print(sentence(row), flush=True))
        print(f"\n{table(rows)}")
        if options.json is not None:
            write(options.json, f"{json.dumps(rows, indent=1)}\n".encode())


if __name__ == "__main__":
    main()
