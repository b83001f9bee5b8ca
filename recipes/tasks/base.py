"""What the commands ask of a task."""

import abc
import dataclasses
from typing import Any

import keras

from keras_cbvit.files import write

from ..evaluation.report_page import Result, page
from ..evaluation.sections import curves
from ..experiment import Augmentation, Data, Experiment, Training
from ..training.logs import read_log
from ..training.run_folder import read_config


class Task(abc.ABC):
    """What is trained, measured and published, in the order in which it is asked for.

    A data set has `train`, `test`, `class_names` and `description`.
    """

    name: str
    data: type[Data]
    augmentation: type[Augmentation]
    training: type[Training]
    smoke_images = 100
    """How many test images are enough to see that everything runs."""

    # Training.

    @abc.abstractmethod
    def shorten(self, training) -> Training:
        """The training of a smoke run: a short one of small batches."""

    @abc.abstractmethod
    def check(self, experiment) -> None:
        """Refuses settings that do not go together, before the data are loaded."""

    @abc.abstractmethod
    def load(self, data, train=True, originals=False) -> Any:
        """The data set, without training images if `train` is false.

        With `originals`, training images keep their sizes, for random crops.
        """

    @abc.abstractmethod
    def build(self, network, data, classes, dtype) -> keras.Model:
        """The model of a network, which gives logits."""

    @abc.abstractmethod
    def prepare(self, model, dataset, experiment) -> None:
        """Gives a model that was built for a data set the names of its classes."""

    @abc.abstractmethod
    def batches(self, experiment, dataset) -> tuple:
        """Those of training, `recipes.data.feed.Steps`, and those to evaluate on."""

    @abc.abstractmethod
    def compile(self, model, experiment, batches) -> keras.Model:
        """The model as it is trained, with loss and optimizer built."""

    @abc.abstractmethod
    def validation(self, model, experiment, batches) -> list:
        """The callbacks that evaluate after each epoch."""

    @abc.abstractmethod
    def finish(self, model) -> keras.Model:
        """The trained model in float32, as it is saved."""

    def draw(self, model, dataset, experiment) -> None:
        """Draws what the finished model does into the run folder, if that is useful."""
        return

    @abc.abstractmethod
    def examine(self, model, dataset, experiment) -> tuple[dict, list]:
        """Measures the finished model of a run on the test images.

        Returns:
            What is measured, as `measure_to_publish` takes it, and the sections of a
            report, see `recipes.evaluation.sections`.
        """

    def write_report(self, dataset, experiment, sections) -> None:
        """Writes report.html with the curves of a run and what `examine` found."""
        folder = experiment.run.folder
        config = read_config(folder)
        facts = {
            "command": config["command"],
            "data": f"{dataset.description}, {len(dataset.train):,} training and "
            f"{len(dataset.test):,} test images",
            "backend": f"{config['backend']}, Keras {config['versions']['keras']}",
            "started": config["date"],
        }
        numbers, *others = sections
        sections = [numbers, *curves(read_log(folder / "log.jsonl")), *others]
        content = page(str(folder), facts, [Result("", sections)])
        write(folder / "report.html", content.encode())

    # Measuring.

    @abc.abstractmethod
    def accepts(self, model) -> bool:
        """Whether a model that says nothing of its task can be of this one."""

    @abc.abstractmethod
    def evaluate(self, models, options, report) -> list[dict]:
        """Measures models; see `recipes.evaluate.evaluate`.

        Args:
            models: pairs of a name and a model.
            options: a `recipes.evaluate.Evaluation`.
            report: a function that is called with each result as soon as it is there,
                and with a function that gives its sections of a report, if it has any.
        """

    @abc.abstractmethod
    def sentence(self, row) -> str:
        """A result of `evaluate` in words."""

    @abc.abstractmethod
    def table(self, rows) -> str:
        """Results of `evaluate` as tables in Markdown."""

    def refuse_other_options(self, options, known, models):
        """Raises a ValueError on the first option that `evaluate` would pass over.

        Args:
            options: a `recipes.evaluate.Evaluation`.
            known: names of those that the task has.
            models: what the task's models are called.
        """
        for field in dataclasses.fields(options):
            value = getattr(options, field.name)
            if field.name not in known and value != field.default:
                raise ValueError(
                    f"{field.name}={value!r} is not for {models}, as "
                    f"{options.models[0]} is."
                )

    # Publishing.

    @abc.abstractmethod
    def data_to_publish(self, model, publication) -> Data:
        """The `Data` that a model of a file is measured on; of `recipes.publish`."""

    @abc.abstractmethod
    def measure_to_publish(self, name, model, dataset, data, found=None) -> tuple:
        """What is measured of a model that is published, and said of it.

        Args:
            name: what messages call the model.
            model: the model.
            dataset: what is loaded of `data`.
            data: the `Data`.
            found: what is measured, if it is known; see `examine`.

        Returns:
            The metrics by name, the most important one first; how many images they are
            of; a sentence; other options of the data that `evaluate` needs again; and
            other arguments of `keras_cbvit.publish`.
        """

    @abc.abstractmethod
    def length(self, training) -> str:
        """How long a training is, in words."""

    # The paper's entries.

    @abc.abstractmethod
    def cost(self, experiment, classes) -> dict:
        """What the model of an experiment costs, by kind; nothing is trained."""

    @abc.abstractmethod
    def require(self, measures, experiment) -> None:
        """Raises what training or measuring a model would raise for want of a file."""

    @abc.abstractmethod
    def measure(self, names, model, dataset, experiment) -> dict:
        """What is measured of a trained model, by the names of `paper_measures`.

        There may be more than was asked for, if it comes with it. `experiment` is as it
        is run.
        """

    @abc.abstractmethod
    def describe_training(self, training, data) -> str:
        """Of how much on what a model was trained, in words, from its settings."""

    def epoch(self, training) -> str:
        """What an epoch of the log is."""
        return "epoch"

    def as_run(self, experiment: Experiment) -> Experiment:
        """The experiment as it is run: with `smoke`, a short one of small batches."""
        if not experiment.run.smoke:
            return experiment
        training = self.shorten(experiment.training)
        return dataclasses.replace(experiment, training=training)
