"""The training runs behind the tables: each model, size and seed once."""

import dataclasses
import functools
from pathlib import Path

import keras

import keras_cbvit

from ..evaluation.paper_measures import BY_EPOCH, by_epoch
from ..experiment import with_changes
from ..files import read_object, write_object
from ..train import train
from ..training import run_folder
from .tasks import RECIPES, config_of, network_of, task_of_dataset


@dataclasses.dataclass(frozen=True)
class Runs:
    """Trains models as the recipe of a data set does, or takes them from before."""

    folder: Path
    """Of all run folders, `DATASET/SIZE/MODEL/seed_N`."""
    dataset: str
    """A key of `recipes.paper.tasks.RECIPES`."""
    options: dict
    """Other settings of all runs, `{"training": {"epochs": 6}, ...}`, by the groups of
    the task's `Experiment`."""

    @property
    def task(self):
        """What the models of this data set are trained for."""
        return task_of_dataset(self.dataset)

    def experiment(self, name, size, seed):
        """What trains a model.

        Args:
            name: of `recipes.paper.models.MODELS`.
            size: `"mini"`, `"ti"`, `"s"` or `"b"`.
            seed: of weights, order and augmentation.
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
        """What a model costs, by kind."""
        experiment = self.experiment(name, size, seed=0)
        return self.task.cost(experiment, RECIPES[self.dataset].classes)

    def settings(self, name, size, seed):
        """How a model was trained: settings, backend, versions, machine of its run."""
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
        """Whether `values` has nothing to train or measure.

        Raises what would stop it before training.
        """
        known, missing = self._found(self.experiment(name, size, seed), measures)
        return known is not None and not missing

    def values(self, name, size, seed, measures):
        """What was measured of a model, by measure; trains it if it is not yet.

        A run folder's config.json, log.csv and measures.json are enough for what was
        measured before.
        """
        experiment = self.experiment(name, size, seed)
        folder = experiment.run.folder
        known, missing = self._found(experiment, measures)
        if missing or known is None:
            known = known or {}
            model = self._trained(experiment)
            if missing:
                dataset = _test_images(self.task, experiment.data)
                as_run = self.task.as_run(experiment)
                if not as_run.run.smoke:  # which evaluates on some of them
                    run_folder.refuse_other_test_data(folder, dataset)
                known |= self.task.measure(missing, model, dataset, as_run)
            write_object(folder / "measures.json", known)
        curves = [each for each in measures if each in BY_EPOCH]
        if curves:
            known |= by_epoch(curves, folder / "log.csv")
        return {each: known[each] for each in measures}

    def _found(self, experiment, measures):
        """What is known of a model, `None` if nothing was measured, and what is not.

        Raises:
            ValueError: if its run folder is of another experiment, or lacks the model
                that something is to be measured of.
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
                f"{', '.join(missing)} of; give another --runs."
            )
        if is_trained:
            backend = keras.backend.backend()
            run_folder.refuse_others(self.task.as_run(experiment), backend)
        elif is_measured:  # any backend can print it
            run_folder.refuse_others(self.task.as_run(experiment))
        else:
            self.task.require(missing, experiment)
        return known, missing

    def _trained(self, experiment):
        """The model of an experiment, trained now if it is not yet."""
        folder = experiment.run.folder
        if (folder / "model.keras").exists():
            return keras_cbvit.load_model(folder / "model.keras")
        keras.utils.clear_session()  # of the model before
        return train(experiment, f"recipes.paper, into {folder}")[0]


def _read(file):
    try:
        return read_object(file)
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); remove it.") from error


@functools.cache
def _test_images(task, data):
    return task.load(data, train=False)
