"""The training runs of the tables and figures: one per model, size and seed."""

import dataclasses
import functools
from pathlib import Path

import keras

import keras_cbvit

from ..evaluation.paper_measures import BY_EPOCH, by_epoch
from ..experiment import with_changes
from ..files import read_json, write_json
from ..train import train
from ..training import run_folder
from .tasks import RECIPES, config_of, network_of, task_of_dataset


@dataclasses.dataclass(frozen=True)
class Runs:
    """Trains models with the recipe of a data set, or reuses completed runs."""

    folder: Path
    """Folder of all run folders, `DATASET/SIZE/MODEL/seed_N`."""
    dataset: str
    """Name of the data set, a key of `recipes.paper.tasks.RECIPES`."""
    options: dict
    """Other settings of all runs, by group of the task's `Experiment`, such as
    `{"training": {"epochs": 6}}`."""

    @property
    def task(self):
        """The task of the data set."""
        return task_of_dataset(self.dataset)

    def experiment(self, name, size, seed):
        """Returns the experiment that trains a model.

        Args:
            name: a key of `recipes.paper.models.MODELS`.
            size: `"mini"`, `"ti"`, `"s"` or `"b"`.
            seed: seed of the weights, the order of images, and augmentation.
        """
        experiment = config_of(self.dataset, size)
        folder = self.folder / self.dataset / size / name / f"seed_{seed}"
        own = {
            "network": network_of(self.dataset, name, size),
            # The measures are those of the entry.
            "run": {"seed": seed, "run_dir": folder, "report": False},
        }
        return with_changes(with_changes(experiment, **self.options), **own)

    def cost(self, name, size):
        """Returns the cost of a model, by kind."""
        experiment = self.experiment(name, size, seed=0)
        return self.task.cost(experiment, RECIPES[self.dataset].classes)

    def settings(self, name, size, seed):
        """Returns settings, backend, versions and machine of a model's run."""
        experiment = self.task.as_run(self.experiment(name, size, seed))
        config = run_folder.read_config(experiment.run.folder)
        groups = ("data", "augmentation", "training")
        return {
            **{group: config["experiment"][group] for group in groups},
            "smoke": experiment.run.smoke,
            **{key: config[key] for key in ("backend", "versions", "commit")},
            **{key: config[key] for key in ("date", "cpu", "cores")},
        }

    def is_complete(self, name, size, seed, measures):
        """Returns whether `values` has nothing to train or evaluate.

        Raises the errors that `values` would raise before training.
        """
        known, missing = self._find_values(self.experiment(name, size, seed), measures)
        return known is not None and not missing

    def values(self, name, size, seed, measures):
        """Returns the values of a model, by measure, and trains the model if necessary.

        Values that were measured before require only config.json, log.csv and
        measures.json in the run folder.
        """
        experiment = self.experiment(name, size, seed)
        folder = experiment.run.folder
        known, missing = self._find_values(experiment, measures)
        if missing or known is None:
            known = known or {}
            model = self._trained_model(experiment)
            if missing:
                dataset = _test_images(self.task, experiment.data)
                as_run = self.task.as_run(experiment)
                if not as_run.run.smoke:  # smoke runs use only some test images
                    run_folder.refuse_other_test_data(folder, dataset)
                known |= self.task.measure(missing, model, dataset, as_run)
            write_json(folder / "measures.json", known)
        curves = [each for each in measures if each in BY_EPOCH]
        if curves:
            known |= by_epoch(curves, folder / "log.csv")
        return {each: known[each] for each in measures}

    def _find_values(self, experiment, measures):
        """Returns known values of a model, `None` if there are none, and missing names.

        Raises:
            ValueError: if the run folder belongs to another experiment, or lacks the
                model for missing values.
        """
        folder = experiment.run.folder
        file = folder / "measures.json"
        is_trained, is_measured = (folder / "model.keras").exists(), file.exists()
        known = _read(file) if is_measured else None
        missing = [
            each for each in measures if each not in (known or {}).keys() | BY_EPOCH
        ]
        if is_measured and missing and not is_trained:
            raise ValueError(
                f"{folder} has measures.json, but no model.keras to measure "
                f"{', '.join(missing)}; restore the model, or set another --runs."
            )
        if is_trained:
            backend = keras.backend.backend()
            run_folder.refuse_others(self.task.as_run(experiment), backend)
        elif is_measured:  # any backend can print the values
            run_folder.refuse_others(self.task.as_run(experiment))
        else:
            self.task.require(missing, experiment)
        return known, missing

    def _trained_model(self, experiment):
        """Returns the model of an experiment, and trains it if necessary."""
        folder = experiment.run.folder
        if (folder / "model.keras").exists():
            return keras_cbvit.load_model(folder / "model.keras")
        keras.utils.clear_session()  # drop the previous model
        return train(experiment, f"recipes.paper, into {folder}")[0]


def _read(file):
    try:
        return read_json(file)
    except ValueError as error:
        raise ValueError(
            f"{file} is damaged ({error}); remove it, and repeat the command."
        ) from error


@functools.cache
def _test_images(task, data):
    return task.load(data, train=False)
