import dataclasses
import json
import sys
from pathlib import Path

import tyro

import recipes.paper
from recipes.commands import parse, say_errors
from recipes.experiment import Precision
from recipes.paper.entries import ENTRIES
from recipes.paper.report import markdown, measured
from recipes.paper.runs import RECIPES, Runs


@dataclasses.dataclass(frozen=True)
class Paper:
    """What is compared, and how it is trained."""

    entry: tyro.conf.Positional[str]
    """A table or figure, or list."""
    dataset: str = "imagenet"
    """imagenet, cifar10 or digits."""
    data_dir: Path | None = None
    """Where TFDS keeps its data sets; its own default if not given."""
    sizes: tuple[str, ...] | None = None
    """ti, s and b, or mini for two CPU cores, where the data set has it. If not given,
    mini, or on ImageNet the paper's."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each model is trained once with each."""
    epochs: int | None = None
    """If not those of the recipe."""
    precision: Precision = "float32"
    devices: int | None = None
    """As for training."""
    smoke: bool = False
    """Two epochs of a few images, to see that everything runs."""
    runs: Path = Path("runs/paper")
    """Folder of the run folders."""
    out: Path = Path("runs/paper")
    """Folder for the results, DATASET/ENTRY.md, .json and .png."""

    def measure(self):
        """Runs what was asked for and writes the result; returns its Markdown."""
        entry = self._known("entry", self.entry, ENTRIES)
        recipe = self._known("dataset", self.dataset, RECIPES)
        if not self.seeds:
            raise ValueError("seeds must have at least one number.")
        sizes = self.sizes or (("mini",) if recipe.mini else entry.sizes)
        for size in sizes:
            self._known("sizes", size, ("ti", "s", "b", "mini"))
            if size == "mini" and not recipe.mini:
                raise ValueError(f"sizes='mini' does not go with {self.dataset}.")
        settings = {
            "data": {"data_dir": self.data_dir},
            "run": {
                "precision": self.precision,
                "devices": self.devices,
                "smoke": self.smoke,
            },
        }
        if self.epochs is not None:
            settings["training"] = {"epochs": self.epochs}
        runs = Runs(self.runs, self.dataset, settings)
        result = measured(self.entry, entry, runs, sizes, self.seeds)
        text = markdown(result)
        name = f"{self.entry}_smoke" if self.smoke else self.entry
        file = self.out / self.dataset / f"{name}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
        entry.draw(result, file.with_suffix(".png"))
        return text

    def _known(self, option, value, known):
        if value not in known:
            raise ValueError(
                f"{option}={value!r} is unknown; use one of {', '.join(known)}."
            )
        return known[value] if isinstance(known, dict) else value


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["list"]:
        for name, entry in ENTRIES.items():
            print(f"{name:10} {entry.title}: {', '.join(entry.models)}")
        return
    options = parse("recipes.paper", Paper, recipes.paper.__doc__, arguments)
    with say_errors():
        text = options.measure()
    print(text)


if __name__ == "__main__":
    main()
