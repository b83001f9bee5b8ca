"""Measures models side by side: accuracy, loss and calibration of classifiers, average
precision of multi-label classifiers, mean IoU of segmentation models.

python -m recipes.evaluate vitcb_ti.cifar10 --data-dir DIR
python -m recipes.evaluate a.keras b.keras --on imagenet real imagenet-a=FOLDER
python -m recipes.evaluate a.keras --on FOLDER --under clean fgsm --epsilons 1 4
python -m recipes.evaluate vitcb_ti.cifar10 --probe knn linear --data-dir DIR
python -m recipes.evaluate runs/camvid --data-dir DIR
"""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import tyro

from keras_cbvit.files import write

from .commands import parse, report_errors


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured, on what, and how."""

    models: tyro.conf.Positional[tuple[str, ...]]
    """Names of published weights, .keras files of any Keras classifier, or run
    folders, all for one task. An option that is not for the task is refused."""
    on: tuple[str, ...] = ()
    """Sets of images: imagenet, imagenet-v2, real or imagenet-a, through TFDS or with
    =FOLDER from one; or any other that training takes: a TFDS name, a folder, an .npz
    file, digits; for multi-label classifiers a CSV file. If not given, published
    weights are measured on what their record says, with its split and its crop, and
    run folders on what their run was evaluated on."""
    under: tuple[Literal["clean", "occlusion", "fgsm", "pgd"], ...] = ("clean",)
    """Conditions: the images as they are, with a black square of half the sides in the
    center, or attacked."""
    epsilons: tuple[float, ...] = (1.0,)
    """The most that an attack changes a value from 0 to 255 by."""
    probe: tuple[Literal["knn", "linear"], ...] = ()
    """Probes of what features tell of classes, instead of the model's own predictions:
    k-NN with 10 and 20 neighbors, and logistic regression, both on the features of the
    images of the split train. Of any classifier or backbone."""
    probe_blocks: tuple[int, ...] = ()
    """Blocks of a Vision Transformer, counted from 0, after each of which the features
    are probed; after the last one if not given."""
    data_dir: str | None = None
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
    """Height and width for models that take any."""
    strict: bool = False
    """Whether an image that cannot be decoded is an error."""
    batch_size: int | None = None
    """Images that are predicted at once, 256 of classifiers and 8 of segmentation
    models on each device if not given; it does not change the numbers."""
    devices: int | None = None
    """How many devices of this machine, as for training, for attacks, too; it does not
    change the numbers. torch takes one."""
    figure: Path | None = None
    """A .png file for some images of the first set beside what segmentation models
    predict."""
    json: Path | None = None
    """A file to write the results to, too."""
    html: Path | None = None
    """An .html file for a report: of classifiers the confusion matrix, the most wrong
    images and the calibration, of the other tasks the classes, and the curves of run
    folders."""

    def conditions(self):
        """Each condition with its epsilon, which only attacks have."""
        for under in self.under:
            for epsilon in self.epsilons if under in ("fgsm", "pgd") else (None,):
                yield under, epsilon

    def batches_of(self, images_per_device):
        """The batch that is asked for, or so many images on each device."""
        return self.batch_size or images_per_device * (self.devices or 1)


def evaluate(options, report=lambda row: None):
    """Runs an `Evaluation`.

    Args:
        options: the `Evaluation`.
        report: a function that is called with each result as soon as it is there.

    Returns:
        The results, dicts: for each set, condition and model `task`, `model`, `on`,
        `backend`, and what the task measures
        (`recipes.evaluation.metrics.measures`,
        `recipes.evaluation.multi_label.measure`,
        `recipes.evaluation.segmenters.measure_segmenters`).

    Raises:
        ValueError: if the classes of a model and a set are not the same, or models of
            several tasks are asked for at once.
        OSError: if a file or a data set is not there.
    """
    from .evaluation.models import load_model
    from .evaluation.report_page import Result
    from .evaluation.sections import page_of_models
    from .tasks import task_of_model
    from .training.devices import distribute

    if not options.models:
        raise ValueError("There is no model to measure; see --help.")
    if not list(options.conditions()):
        raise ValueError("There is nothing to measure under; see --under, --epsilons.")
    for name, suffix in (("figure", ".png"), ("html", ".html")):
        file = getattr(options, name)
        if file is not None and file.suffix != suffix:
            raise ValueError(f"{name}={file} must be a {suffix} file.")
    # Before anything else wakes the backend, which then has the devices it has.
    with distribute(options.devices, options.batches_of(1)):
        models = [(name, load_model(name)) for name in options.models]
        first, *others = [(name, task_of_model(name, model)) for name, model in models]
        for name, task in others:
            if task is not first[1]:
                raise ValueError(
                    f"{first[0]} is a model for {first[1].name}, but {name} for "
                    f"{task.name}; measure them in a command each."
                )
        task, results = first[1], []

        def report_with_task(row, sections=list):
            report({"task": task.name, **row})
            if options.html is not None:
                results.append(Result(task.sentence(row), sections()))

        rows = task.evaluate(models, options, report_with_task)
    if options.html is not None:
        write(options.html, page_of_models(options.models, results).encode())
    return [{"task": task.name, **row} for row in rows]


def main(arguments=None):
    options = parse("evaluate", Evaluation, __doc__, arguments)
    with report_errors():
        for file in (options.figure, options.json, options.html):
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
        from .tasks import TASKS

        def report(row):
            print(TASKS[row["task"]].sentence(row), flush=True)

        rows = evaluate(options, report)
        print(f"\n{TASKS[rows[0]['task']].table(rows)}")
        if options.json is not None:
            write(options.json, f"{json.dumps(rows, indent=1)}\n".encode())


if __name__ == "__main__":
    main()
