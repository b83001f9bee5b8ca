"""Trains, measures and prints what the paper's tables and figures show.

    python -m recipes.paper list
    python -m recipes.paper table5 --dataset cifar10 --seeds 0 1 [--option value ...]

A model that several of them need is trained once. Runs that were interrupted go on,
runs that are complete are taken as they are; all are in the folder of `--runs`.
Where that holds what was measured, config.json, log.csv and measures.json of each run
are enough to print and draw it again.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import tyro

from keras_cbvit.files import write

from ..commands import parse, report_errors
from ..experiment import Precision
from ..files import write_object
from .entries import ENTRIES
from .report import markdown, measured
from .runs import Runs
from .tasks import LENGTHS, RECIPES, datasets_of


@dataclasses.dataclass(frozen=True)
class Paper:
    """What is compared, and how it is trained."""

    entry: tyro.conf.Positional[str]
    """A table or figure, or list."""
    dataset: str | None = None
    """imagenet, cifar10 or digits; of segmentation ade20k (160,000 iterations),
    ade20k_40k or camvid. If not given, the paper's: imagenet or ade20k."""
    data_dir: str | None = None
    """Where TFDS keeps its data sets, its own default if not given; of segmentation the
    folder that ADEChallengeData2016 or camvid is in, this one if not given."""
    sizes: tuple[str, ...] | None = None
    """ti, s and b, or mini for two CPU cores, where the data set has it. If not given,
    mini, or where there is none the paper's."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each model is trained once with each."""
    epochs: int | None = None
    """If not those of the recipe; for segmentation there are iterations."""
    iterations: int | None = None
    """Of segmentation, if not those of the recipe."""
    precision: Precision = "float32"
    devices: int | None = None
    """As for training."""
    smoke: bool = False
    """Two short epochs of a few images, to see that everything runs."""
    ray: str | None = None
    """Address of a Ray cluster that trains the models side by side, each on its share
    of GPUs or cores: local for one of this machine, auto for the one that this machine
    belongs to. docs/cluster.md says more."""
    runs: Path = Path("runs/paper")
    """Folder of the run folders."""
    out: Path = Path("runs/paper")
    """Folder for the results, DATASET/ENTRY.md, .json and .png."""

    def measure(self):
        """Runs what was asked for and writes the result; returns its Markdown."""
        entry = self._known("entry", self.entry, ENTRIES)
        dataset = self._dataset(entry.task)
        if not self.seeds:
            raise ValueError("seeds must have at least one number.")
        mini = RECIPES[dataset].mini
        sizes = self.sizes or (("mini",) if mini else entry.sizes)
        for size in sizes:
            self._known("sizes", size, ("ti", "s", "b", "mini"))
            if size == "mini" and not mini:
                raise ValueError(f"sizes='mini' does not go with {dataset}.")
        runs = Runs(self.runs, dataset, self._settings(entry.task))
        result = measured(self.entry, entry, runs, sizes, self.seeds, self.ray)
        text = markdown(result)
        name = f"{self.entry}_smoke" if self.smoke else self.entry
        file = self.out / dataset / f"{name}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, text.encode())
        write_object(file.with_suffix(".json"), result)
        entry.draw(result, file.with_suffix(".png"))
        return text

    def _dataset(self, task):
        """The data set that was asked for, or the paper's."""
        if self.dataset is None:
            return datasets_of(task)[0]
        known = datasets_of(task)
        if self.dataset in RECIPES and self.dataset not in known:
            raise ValueError(
                f"dataset={self.dataset!r} is of {RECIPES[self.dataset].task}, but "
                f"{self.entry} of {task}; use one of {', '.join(known)}."
            )
        self._known("dataset", self.dataset, known)
        return self.dataset

    def _settings(self, task):
        """Of all runs, by the groups of an experiment."""
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
                    f"{length}={value} does not go with {self.entry}: {task} is "
                    f"trained for a number of {LENGTHS[task]}; give --{LENGTHS[task]}."
                )
            settings["training"] = {length: value}
        return settings

    def _known(self, option, value, known) -> Any:
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
