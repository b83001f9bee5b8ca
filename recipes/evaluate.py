"""Evaluate classifiers, multi-label classifiers or segmentation models side by side.

The metrics are accuracy, loss and calibration error; average precision; or mean IoU.

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
    """Options of the command: models, test sets, conditions and outputs."""

    models: tyro.conf.Positional[tuple[str, ...]]
    """Names of published weights, .keras files of any Keras classifier, or run
    folders, all for the same task. Options of other tasks are errors."""
    on: tuple[str, ...] = ()
    """Test sets: imagenet, imagenet-v2, real or imagenet-a, from TFDS, or from a
    folder with =FOLDER; or any data set that training takes: a TFDS name, a folder, an
    .npz file, digits; a CSV file for multi-label classifiers. If not given, the data
    set, split and crop in the record of published weights, or the test images of the
    run."""
    under: tuple[Literal["clean", "occlusion", "fgsm", "pgd"], ...] = ("clean",)
    """Conditions: unchanged images; a black square in the center, half as wide and
    high as the image; or an adversarial attack."""
    epsilons: tuple[float, ...] = (1.0,)
    """Maximum change of a pixel value (0-255) by an attack."""
    probe: tuple[Literal["knn", "linear"], ...] = ()
    """Probes to evaluate the features of any classifier or backbone instead of its
    predictions: k-NN with 10 and 20 neighbors, or logistic regression, both fitted to
    the features of the training split."""
    probe_blocks: tuple[int, ...] = ()
    """Blocks of a Vision Transformer, counted from 0, whose outputs are probed; the
    last one if not given."""
    data_dir: str | None = None
    """TFDS data directory, or the parent folder of a record's data set."""
    test_split: str | None = None
    """TFDS split, or subfolder of an image folder; "." for the folder itself. If not
    given, that of the record or of ImageNet's protocol, else "test"."""
    crop_fraction: float | None = None
    """Fraction of each side that the center crop keeps. If not given, 0.875 as in DeiT
    for ImageNet's sets, else that of the record or run, else 1."""
    test_labels: Path | None = None
    """Labels of a test folder without class folders, as for training."""
    real_labels: Path | None = None
    """Path of real.json, for `real` from a folder or from TFDS's imagenet2012."""
    normalize: Literal["none", "unit", "symmetric", "imagenet", "caffe"] = "none"
    """Normalization of images 0-255 for models of other packages that do not include
    it: none, to 0-1, to -1-1, by ImageNet's mean and standard deviation, or to BGR
    minus the mean."""
    image_size: tuple[int, int] | None = None
    """Height and width for models of variable image size."""
    strict: bool = False
    """Whether to stop at an image that cannot be decoded."""
    batch_size: int | None = None
    """Images per batch; if not given, 256 per device for classifiers and 8 per device
    for segmentation models. It does not change the results."""
    devices: int | None = None
    """Number of devices of this machine, as for training, also for attacks. It does
    not change the results. PyTorch uses one device."""
    figure: Path | None = None
    """Write images of the first set with the predictions of segmentation models to
    this .png file."""
    json: Path | None = None
    """Write the results to this JSON file."""
    html: Path | None = None
    """Write a report to this .html file: confusion matrix, worst errors and
    calibration of classifiers, results per class for the other tasks, and the training
    curves of run folders."""

    def conditions(self):
        """Yields each condition with its epsilon, `None` unless it is an attack."""
        for under in self.under:
            for epsilon in self.epsilons if under in ("fgsm", "pgd") else (None,):
                yield under, epsilon

    def batches_of(self, images_per_device):
        """Returns the batch size, by default `images_per_device` times the devices."""
        return self.batch_size or images_per_device * (self.devices or 1)


def evaluate(options, report=lambda row: None):
    """Evaluates models.

    Args:
        options: an `Evaluation`.
        report: function that is called with each result as soon as it is available.

    Returns:
        A list of dicts, one for each set, condition and model: `task`, `model`, `on`,
        `backend`, and the metrics of the task
        (`recipes.evaluation.metrics.measures`,
        `recipes.evaluation.multi_label.measure`,
        `recipes.evaluation.segmenters.measure_segmenters`).

    Raises:
        ValueError: if the classes of a model and a set do not match, or the models are
            for different tasks.
        OSError: if a file or a data set is missing.
    """
    from .evaluation.models import load_model
    from .evaluation.report_page import Result
    from .evaluation.sections import page_of_models
    from .tasks import task_of_model
    from .training.devices import distribute

    if not options.models:
        raise ValueError("No model given; pass at least one name, file or run folder.")
    if not list(options.conditions()):
        raise ValueError("No conditions given; set --under or --epsilons.")
    for name, suffix in (("figure", ".png"), ("html", ".html")):
        file = getattr(options, name)
        if file is not None and file.suffix != suffix:
            raise ValueError(f"{name}={file} must be a {suffix} file.")
    # Must come first: initializing the backend fixes its devices.
    with distribute(options.devices, options.batches_of(1)):
        models = [(name, load_model(name)) for name in options.models]
        first, *others = [(name, task_of_model(name, model)) for name, model in models]
        for name, task in others:
            if task is not first[1]:
                raise ValueError(
                    f"{first[0]} is a model for {first[1].name}, but {name} is one "
                    f"for {task.name}; evaluate them with separate commands."
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
