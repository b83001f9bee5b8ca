"""Reproduce the paper's tables and figures: train, evaluate, and print the results.

    python -m recipes.paper list
    python -m recipes.paper table5 --dataset cifar10 --seeds 0 1 [--option value ...]

All runs are in the folder --runs. Models are shared between tables and figures,
interrupted runs are resumed, and completed runs are reused. To print and draw completed
results again, only config.json, log.csv and measures.json of each run are required.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import tyro

from keras_cbvit.files import write

from ..commands import parse, report_errors
from ..experiment import Precision
from ..files import write_json
from .entries import ENTRIES
from .report import markdown, run_entry
from .runs import Runs
from .tasks import LENGTHS, RECIPES, datasets_of


@dataclasses.dataclass(frozen=True)
class Paper:
    """The table or figure, and how to train its models."""

    entry: tyro.conf.Positional[str]
    """Name of a table or figure, such as table5; "list" lists all."""
    dataset: str | None = None
    """Data set: imagenet, cifar10 or digits; for segmentation, ade20k (160,000
    iterations), ade20k_40k or camvid. The paper's, imagenet or ade20k, if not given."""
    data_dir: str | None = None
    """Folder of the TFDS data sets, TFDS's default if not given; for segmentation,
    parent folder of ADEChallengeData2016 or camvid, the current one if not given."""
    sizes: tuple[str, ...] | None = None
    """Model sizes: ti, s and b, or mini for two CPU cores; mini, or the paper's sizes
    for data sets without a mini recipe, if not given."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each model is trained once per seed."""
    epochs: int | None = None
    """Number of epochs, for classification; the recipe's if not given."""
    iterations: int | None = None
    """Number of iterations, for segmentation; the recipe's if not given."""
    precision: Precision = "float32"
    """Precision of the computation; the weights are always float32."""
    devices: int | None = None
    """Number of local devices; all GPUs or one CPU if not given."""
    smoke: bool = False
    """Whether to train only two short epochs on a few images to check the setup."""
    ray: str | None = None
    """Address of a Ray cluster that trains the models in parallel, each on its share
    of GPUs or cores: local for a cluster on this machine, auto for the cluster that
    this machine belongs to. See docs/cluster.md."""
    runs: Path = Path("runs/paper")
    """Folder of the run folders."""
    out: Path = Path("runs/paper")
    """Folder for the results: DATASET/ENTRY.md, .json and .png."""

    def measure(self):
        """Runs the experiments and writes the results; returns them as Markdown."""
        entry = self._check_known("entry", self.entry, ENTRIES)
        dataset = self._dataset(entry.task)
        if not self.seeds:
            raise ValueError("--seeds requires at least one seed.")
        mini = RECIPES[dataset].mini
        sizes = self.sizes or (("mini",) if mini else entry.sizes)
        for size in sizes:
            self._check_known("sizes", size, ("ti", "s", "b", "mini"))
            if size == "mini" and not mini:
                raise ValueError(
                    f"{dataset} has no recipe for sizes='mini'; use ti, s or b."
                )
        runs = Runs(self.runs, dataset, self._settings(entry.task))
        result = run_entry(self.entry, entry, runs, sizes, self.seeds, self.ray)
        text = markdown(result)
        name = f"{self.entry}_smoke" if self.smoke else self.entry
        file = self.out / dataset / f"{name}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, text.encode())
        write_json(file.with_suffix(".json"), result)
        entry.draw(result, file.with_suffix(".png"))
        return text

    def _dataset(self, task):
        """Returns the requested data set, or the paper's."""
        if self.dataset is None:
            return datasets_of(task)[0]
        known = datasets_of(task)
        if self.dataset in RECIPES and self.dataset not in known:
            raise ValueError(
                f"dataset={self.dataset!r} is for {RECIPES[self.dataset].task}, but "
                f"{self.entry} is for {task}; use one of {', '.join(known)}."
            )
        self._check_known("dataset", self.dataset, known)
        return self.dataset

    def _settings(self, task):
        """Returns the settings of all runs, by group of the experiment."""
        settings = {
            "data": {"data_dir": self.data_dir},
            "run": {
                "precision": self.precision,
                "devices": self.devices,
                "smoke": self.smoke,
            },
        }
        for length in ("epochs", "iterations"):
            value = getattr(self, length)
            if value is None:
                continue
            if length != LENGTHS[task]:
                raise ValueError(
                    f"{length}={value} does not apply to {self.entry}, which is for "
                    f"{task}; use --{LENGTHS[task]}."
                )
            settings["training"] = {length: value}
        return settings

    def _check_known(self, option, value, known) -> Any:
        if value not in known:
            raise ValueError(
                f"{option}={value!r} is unknown; use one of {', '.join(known)}."
            )
        return known[value] if isinstance(known, dict) else value


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["list"]:
        for name, entry in ENTRIES.items():
            print(f"{name:13} {entry.title}: {', '.join(entry.models)}")
        return
    options = parse("paper", Paper, __doc__, arguments)
    with report_errors():
        text = options.measure()
    print(text)


if __name__ == "__main__":
    main()
