"""The interface of a task."""

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
    """Base class of tasks: how to train, evaluate and publish their models.

    Data sets have the attributes `train`, `test`, `class_names` and `description`.
    """

    name: str
    data: type[Data]
    augmentation: type[Augmentation]
    training: type[Training]
    smoke_images = 100
    """Number of test images in a smoke run."""

    # Training.

    @abc.abstractmethod
    def shorten(self, training) -> Training:
        """Returns the training options of a smoke run: few steps, small batches."""

    @abc.abstractmethod
    def check(self, experiment) -> None:
        """Raises a ValueError for incompatible options, before the data are loaded."""

    @abc.abstractmethod
    def load(self, data, train=True, originals=False) -> Any:
        """Loads the data set, without training images if `train` is false.

        With `originals`, training images keep their original sizes, for random crops.
        """

    @abc.abstractmethod
    def build(self, network, data, classes, dtype) -> keras.Model:
        """Builds the model of a network; it returns logits."""

    @abc.abstractmethod
    def prepare(self, model, dataset, experiment) -> None:
        """Sets the class names of a model that was built for a data set."""

    @abc.abstractmethod
    def batches(self, experiment, dataset) -> tuple:
        """Returns training batches, `recipes.data.feed.Steps`, and test batches."""

    @abc.abstractmethod
    def compile(self, model, experiment, batches) -> keras.Model:
        """Returns the model to train, compiled with loss and optimizer."""

    @abc.abstractmethod
    def validation(self, model, experiment, batches) -> list:
        """Returns the callbacks that evaluate the model after each epoch."""

    @abc.abstractmethod
    def finish(self, model) -> keras.Model:
        """Returns the trained model in float32, for saving."""

    def draw(self, model, dataset, experiment) -> None:
        """Draws predictions of the trained model into the run folder, if useful."""
        return

    @abc.abstractmethod
    def examine(self, model, dataset, experiment) -> tuple[dict, list]:
        """Evaluates the trained model of a run on the test images.

        Returns:
            The results, as `measure_to_publish` takes them, and the sections of a
            report, see `recipes.evaluation.sections`.
        """

    def write_report(self, dataset, experiment, sections) -> None:
        """Writes report.html with the curves of a run and the sections of `examine`."""
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

    # Evaluation.

    @abc.abstractmethod
    def accepts(self, model) -> bool:
        """Returns whether a model of unknown origin can belong to this task."""

    @abc.abstractmethod
    def evaluate(self, models, options, report) -> list[dict]:
        """Evaluates models; see `recipes.evaluate.evaluate`.

        Args:
            models: pairs of name and model.
            options: a `recipes.evaluate.Evaluation`.
            report: function that is called with each result once it is available, and
                with a function that returns its sections of a report, if it has any.
        """

    @abc.abstractmethod
    def sentence(self, row) -> str:
        """Describes a result of `evaluate` in a sentence."""

    @abc.abstractmethod
    def table(self, rows) -> str:
        """Formats results of `evaluate` as Markdown tables."""

    def refuse_other_options(self, options, known, models):
        """Raises a ValueError for the first option that `evaluate` does not support.

        Args:
            options: a `recipes.evaluate.Evaluation`.
            known: names of the options that the task supports.
            models: what to call the task's models in the message.
        """
        for field in dataclasses.fields(options):
            value = getattr(options, field.name)
            if field.name not in known and value != field.default:
                raise ValueError(
                    f"{field.name}={value!r} does not apply to {models} such as "
                    f"{options.models[0]}."
                )

    # Publishing.

    @abc.abstractmethod
    def data_to_publish(self, model, publication) -> Data:
        """Returns the `Data` to evaluate a model on for `recipes.publish`."""

    @abc.abstractmethod
    def measure_to_publish(self, name, model, dataset, data, found=None) -> tuple:
        """Evaluates a model for publishing.

        Args:
            name: what messages call the model.
            model: the model.
            dataset: what is loaded of `data`.
            data: the `Data`.
            found: what is measured, if it is known; see `examine`.

        Returns:
            The metrics by name, the most important first; the number of images; a
            note; other options of the data that `evaluate` requires to repeat the
            evaluation; and other arguments of `keras_cbvit.publish`.
        """

    @abc.abstractmethod
    def length(self, training) -> str:
        """Describes the length of a training run, such as "300 epochs"."""

    # The paper's entries.

    @abc.abstractmethod
    def cost(self, experiment, classes) -> dict:
        """Returns the cost of an experiment's model by kind, without training it."""

    @abc.abstractmethod
    def require(self, measures, experiment) -> None:
        """Raises the error that missing files would cause in training or evaluation."""

    @abc.abstractmethod
    def measure(self, names, model, dataset, experiment) -> dict:
        """Returns measurements of a trained model, by the names of `paper_measures`.

        The result may include further measurements that come at no cost. `experiment`
        is the result of `as_run`.
        """

    @abc.abstractmethod
    def describe_training(self, training, data) -> str:
        """Describes the length and data of a training run, from its settings."""

    def epoch(self, training) -> str:
        """Describes an epoch of the log."""
        return "epoch"

    def as_run(self, experiment: Experiment) -> Experiment:
        """Returns the experiment to run, shortened if `smoke` is set."""
        if not experiment.run.smoke:
            return experiment
        training = self.shorten(experiment.training)
        return dataclasses.replace(experiment, training=training)
