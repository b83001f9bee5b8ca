"""From an experiment to a trained model, the same way for every task.

What tasks do each in their own way is a `Task`:
`recipes.training.classification.Classification`,
`recipes.training.segmentation.Segmentation`.
"""

import abc
import contextlib
import dataclasses
import math

import keras

from recipes.data.fingerprints import of_dataset
from recipes.training import callbacks, run_folder
from recipes.training.devices import distribute, this_process


class Task(abc.ABC):
    """What is trained, in the order in which `train` asks for it.

    An experiment has the groups `network`, `data`, `augmentation`, `training` and
    `run`; its training has `epochs`, `global_batch_size`, `accumulation_steps` and
    `ema_decay`. A data set has `train`, `test`, `class_names` and `description`.
    """

    smoke_images = 100
    """How many test images are enough to see that everything runs."""

    @abc.abstractmethod
    def smoked(self, training):
        """The training of a smoke run: a short one of small batches."""

    @abc.abstractmethod
    def check(self, experiment):
        """Refuses settings that do not go together, before the data are fetched."""

    @abc.abstractmethod
    def load(self, experiment):
        """The data set."""

    @abc.abstractmethod
    def build(self, experiment, dataset):
        """The model, in the run's precision."""

    @abc.abstractmethod
    def refuse_unpublishable(self, model, experiment):
        """Raises what publishing would raise, before a long training."""

    @abc.abstractmethod
    def batches(self, experiment, dataset):
        """Those of training, `recipes.data.batches.Steps`, and those to evaluate on."""

    @abc.abstractmethod
    def compiled(self, model, experiment, batches):
        """The model as it is trained, with loss and optimizer built."""

    @abc.abstractmethod
    def evaluating(self, model, experiment, batches):
        """What evaluates after each epoch: `fit`'s validation data, and callbacks."""

    @abc.abstractmethod
    def finished(self, model, experiment):
        """The trained model in float32, as it is saved."""

    @abc.abstractmethod
    def publish(self, model, dataset, experiment, command):
        """Measures the finished model and publishes it."""

    @abc.abstractmethod
    def draw(self, model, dataset, experiment):
        """Draws what the finished model does, into the run folder."""


def train(task, experiment, command):
    """Runs an experiment; returns the trained model and its data set.

    The model, in float32, is `model.keras` in the run folder, too; with `ema_decay`,
    `model_ema.keras` is the one with the moving averages of the weights. The same
    experiment goes on where it was interrupted, from the last checkpoint in the same
    run folder, to the same weights as without interruption.

    Args:
        task: a `Task`.
        experiment: of the task.
        command: what a model card gives as the recipe.

    Raises:
        ValueError: on settings that do not go together, or a run folder of another
            experiment, of other data, or that another process is training in.
        OSError: if the disk is full.
        MissingDatasetError: if the data set is not there.
        NonFiniteLossError: if the loss becomes NaN.
    """
    experiment = as_run(task, experiment)
    with contextlib.ExitStack() as held:
        return _train(task, experiment, command, held)


def _train(task, experiment, command, held):
    """Trains while what `held` holds, an `ExitStack`, is held."""
    training, run = experiment.training, experiment.run
    # Before anything else wakes the backend, which then has the devices it has.
    with distribute(run.devices, training.global_batch_size):
        check_ranges(experiment)
        task.check(experiment)
        is_first = this_process()[0] == 0
        dataset = task.load(experiment)
        if run.smoke:
            dataset = dataclasses.replace(
                dataset,
                train=dataset.train.first(2 * training.global_batch_size),
                test=dataset.test.first(task.smoke_images),
            )
        keras.utils.set_random_seed(run.seed)
        batches = task.batches(experiment, dataset)
        model = task.build(experiment, dataset)
        if run.publish:
            task.refuse_unpublishable(model, experiment)
        trainer = task.compiled(model, experiment, batches)
        if is_first:
            held.enter_context(run_folder.locked(run.folder))
            run_folder.claim(experiment, command, of_dataset(dataset))
            print(
                f"{dataset.description}: {len(dataset.train)} training and "
                f"{len(dataset.test)} test images of {len(dataset.class_names)} "
                f"classes, {batches[0].steps_per_epoch} steps per epoch, on "
                f"{keras.backend.backend()}."
            )
        checkpoints = callbacks.Checkpoints(
            run.folder / "checkpoints",
            batches[0].steps_per_epoch,
            run.checkpoint_steps,
            write=is_first,
        )
        held.enter_context(checkpoints.noted())
        evaluating = task.evaluating(model, experiment, batches)
        _fit(trainer, batches, *evaluating, checkpoints, training, run)
    if broken := _broken_images(batches):
        print(f"{broken} pictures could not be decoded and were left out.")
    finished = task.finished(model, experiment)
    if is_first:
        run_folder.save(finished, run.folder / "model.keras")
        print(f"The model is in {run.folder / 'model.keras'}.")
    if training.ema_decay is not None:
        with callbacks.averaged(trainer):
            averages = task.finished(model, experiment)
        if is_first:
            run_folder.save(averages, run.folder / "model_ema.keras")
    if is_first:
        task.draw(finished, dataset, experiment)
    if run.publish and is_first:
        task.publish(finished, dataset, experiment, command)
    return finished, dataset


def notes(experiment, length):
    """What a model card says of a run of a length in words."""
    training, run = experiment.training, experiment.run
    return (
        f"{length} in batches of {training.global_batch_size}, {run.precision}, seed "
        f"{run.seed}, on {keras.backend.backend()}; one run, so the value has no "
        "spread. `config.json` of the run folder has every setting.\n"
    )


def _fit(trainer, batches, validation_data, evaluating, checkpoints, training, run):
    """Trains to the end, from the last checkpoint in the run folder if there is one."""
    is_first = this_process()[0] == 0
    train_batches = batches[0]
    steps_per_epoch = train_batches.steps_per_epoch
    step = checkpoints.restore(trainer)
    epoch, done = divmod(step, steps_per_epoch)
    if is_first and 0 < step < training.epochs * steps_per_epoch:
        print(f"Going on after step {done} of epoch {epoch + 1} in {run.folder}.")
        run_folder.warn_elsewhere(run.folder)
    watching = [*evaluating, callbacks.StopOnNonFiniteLoss(checkpoints)]
    if is_first:
        images, epochs = train_batches.batch_size, training.epochs
        watching += [
            callbacks.Progress(step, steps_per_epoch, epochs, images),
            callbacks.EpochLog(
                run.folder, epoch, images, lambda: _broken_images(batches)
            ),
        ]
    watching.append(checkpoints)
    # An epoch that was interrupted is shorter than the others.
    pieces = [(epoch, epoch + 1), (epoch + 1, training.epochs)] if done else []
    for first, last in pieces or [(epoch, training.epochs)]:
        if first >= last:
            continue
        start = max(step, first * steps_per_epoch)
        trainer.fit(
            train_batches.for_fit(start, last * steps_per_epoch),
            validation_data=validation_data,
            initial_epoch=first,
            epochs=last,
            steps_per_epoch=steps_per_epoch - start % steps_per_epoch,
            callbacks=watching,
            shuffle=False,  # the batches are
            verbose=0,
        )


def _broken_images(batches):
    """How many pictures of some batches could not be decoded so far."""
    return sum(each.broken_images for each in batches)


def as_run(task, experiment):
    """The experiment as it is run: with `smoke`, a short one of small batches."""
    if not experiment.run.smoke:
        return experiment
    training = task.smoked(experiment.training)
    return dataclasses.replace(experiment, training=training)


_RANGES = {
    "repeats": (1, math.inf),
    "shift": (0, math.inf),
    "rand_augment": (0, 10),
    "erasing": (0, 1),
    "mixup_alpha": (0, math.inf),
    "cutmix_alpha": (0, math.inf),
    "most_of_one_class": (0, 1),
    "epochs": (1, math.inf),
    "iterations": (1, math.inf),
    "evaluation_iterations": (1, math.inf),
    "global_batch_size": (1, math.inf),
    "base_learning_rate": (0, math.inf),
    "learning_rate": (0, math.inf),
    "warmup_epochs": (0, math.inf),
    "warmup_iterations": (0, math.inf),
    "warmup_learning_rate": (0, math.inf),
    "warmup_ratio": (0, 1),
    "minimum_learning_rate": (0, math.inf),
    "weight_decay": (0, math.inf),
    "auxiliary_weight": (0, math.inf),
    "label_smoothing": (0, 1),
    "clip_norm": (0, math.inf),
    "ema_decay": (0, 1),
    "checkpoint_steps": (1, math.inf),
}


def check_ranges(experiment):
    """Refuses numbers that make no sense by themselves."""
    for group in (experiment.augmentation, experiment.training, experiment.run):
        for name, value in vars(group).items():
            if name not in _RANGES or value is None:
                continue
            lowest, highest = _RANGES[name]
            if not lowest <= value <= highest:
                upwards = f"at least {lowest}"
                both = f"between {lowest} and {highest}"
                wanted = upwards if highest == math.inf else both
                raise ValueError(f"{name}={value} must be {wanted}.")
