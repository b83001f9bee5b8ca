"""The training loop, shared by all tasks.

The parts that differ between tasks are the methods of `recipes.tasks.base.Task`.
"""

import contextlib
import dataclasses

import keras

from keras_cbvit.backend import is_on_cpu, keep_freed_memory
from keras_cbvit.pretrained.publishing import check_publishable

from ..data.fingerprints import dataset_fingerprint
from ..publishing import measure_and_publish
from . import callbacks, fine_tuning, logs, run_folder
from .devices import distribute, this_process
from .hand_over import build_feed, check_feed, hand_over
from .progress import Progress
from .summary import summary


def train(task, experiment, command):
    """Runs an experiment and returns the trained float32 model and its data set.

    Saves the model as `model.keras` in the run folder and, with `ema_decay`, the model
    with averaged weights as `model_ema.keras`. An interrupted experiment resumes from
    the last checkpoint in its run folder and reaches the same weights as without
    interruption.

    Args:
        task: a `recipes.tasks.base.Task`.
        experiment: experiment of the task.
        command: command that the model card gives as the recipe.

    Raises:
        ValueError: if settings are incompatible, or the run folder holds another
            experiment or other data, or another process is training in it.
        OSError: if the disk is full.
        MissingDatasetError: if the data set is missing.
        NonFiniteLossError: if the loss or a weight becomes NaN or infinite.
    """
    experiment = task.as_run(experiment)
    with contextlib.ExitStack() as held:
        return _train(task, experiment, command, held)


def _train(task, experiment, command, held):
    """Trains with the contexts that it enters on the `ExitStack` `held`."""
    training, run = experiment.training, experiment.run
    # Must come first: initializing the backend fixes its devices.
    with distribute(run.devices, training.global_batch_size):
        if run.keep_freed_memory and is_on_cpu():
            keep_freed_memory()
        experiment.check()
        task.check(experiment)
        fine_tuning.check(experiment)
        check_feed(run)
        if run.wandb:
            logs.require_wandb()
        # Validates the network's arguments before the data, which has the number of
        # classes, is loaded.
        task.build(experiment.network, experiment.data, 2, run.precision)
        is_first = this_process()[0] == 0
        originals = getattr(experiment.augmentation, "random_resized_crop", False)
        dataset = task.load(experiment.data, originals=originals)
        if run.smoke:
            dataset = dataclasses.replace(
                dataset,
                train=dataset.train.first(2 * training.global_batch_size),
                test=dataset.test.first(task.smoke_images),
            )
        keras.utils.set_random_seed(run.seed)
        batches = task.batches(experiment, dataset)
        feed = build_feed(batches[0], run)
        classes = len(dataset.class_names)
        model = task.build(experiment.network, experiment.data, classes, run.precision)
        task.prepare(model, dataset, experiment)
        fine_tuning.prepare(model, training)
        expected = fine_tuning.expected_result(model, training)
        if run.publish:
            check_publishable(expected, run.publish, run.weights_dir, run.overwrite)
        trainer = task.compile(model, experiment, batches)
        if is_first:
            held.enter_context(run_folder.lock(run.folder))
            run_folder.claim(task, experiment, command, dataset_fingerprint(dataset))
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
        held.enter_context(checkpoints.add_checkpoint_note())
        evaluating = task.validation(model, experiment, batches)
        trackers = _trackers(run, held) if is_first else []
        _fit(trainer, batches, feed, evaluating, checkpoints, trackers, training, run)
    if broken := _broken_images(batches):
        print(f"{broken} images could not be decoded and were skipped.")
    finished = fine_tuning.result(task.finish(model), training)
    if is_first:
        run_folder.save(finished, run.folder / "model.keras")
    if training.ema_decay is not None:
        with callbacks.use_averages(trainer):
            fine_tuning.complete(model, training)
            averages = fine_tuning.result(task.finish(model), training)
        if is_first:
            run_folder.save(averages, run.folder / "model_ema.keras")
    if is_first:
        task.draw(finished, dataset, experiment)
        found = None
        if run.report:
            found, sections = task.examine(finished, dataset, experiment)
            task.write_report(dataset, experiment, sections)
        if run.publish:
            publish_run(task, finished, dataset, experiment, command, found)
        print(summary(run))
    return finished, dataset


def publish_run(task, model, dataset, experiment, command, found):
    """Publishes the model of a run with its evaluation results."""
    run = experiment.run
    measure_and_publish(
        task,
        model,
        run.publish,
        run.weights_dir,
        dataset,
        experiment.data,
        found,
        trained_on=f"{dataset.description}, {len(dataset.train)} images",
        recipe=command,
        license=run.license,
        notes=_notes(task, experiment),
        overwrite=run.overwrite,
    )


def _notes(task, experiment):
    """Returns the notes on a run for its model card."""
    training, run = experiment.training, experiment.run
    return (
        f"{task.length(training)} in batches of {training.global_batch_size}, "
        f"{run.precision}, seed {run.seed}, on {keras.backend.backend()}. The results "
        "are from a single run. Its folder contains all settings in `config.json`.\n"
    )


def _trackers(run, held):
    """Returns the trackers of a run; `held` closes them."""
    found = [logs.Scalars(run.folder / "tensorboard")] if run.tensorboard else []
    if run.wandb:
        found.append(held.enter_context(logs.WeightsAndBiases(run.folder)))
    return found


def _fit(trainer, batches, feed, evaluating, checkpoints, trackers, training, run):
    """Trains to the end, starting from the last checkpoint if one exists."""
    is_first = this_process()[0] == 0
    train_batches = batches[0]
    steps_per_epoch = train_batches.steps_per_epoch
    step = checkpoints.restore(trainer)
    epoch, done = divmod(step, steps_per_epoch)
    if is_first and 0 < step < training.epochs * steps_per_epoch:
        print(f"Resuming after step {done} of epoch {epoch + 1} in {run.folder}.")
        run_folder.warn_elsewhere(run.folder)
    watching = [*evaluating, callbacks.StopOnNonFiniteLoss(checkpoints)]
    if is_first:
        images, epochs = train_batches.batch_size, training.epochs
        watching += [
            Progress(step, steps_per_epoch, epochs, images, feed),
            callbacks.EpochLog(
                run.folder,
                epoch,
                images,
                lambda: _broken_images(batches),
                feed,
                trackers,
            ),
        ]
    watching.append(checkpoints)
    # The rest of an interrupted epoch has fewer steps, so it takes a separate `fit`.
    pieces = [(epoch, epoch + 1), (epoch + 1, training.epochs)] if done else []
    for first, last in pieces or [(epoch, training.epochs)]:
        if first >= last:
            continue
        start = max(step, first * steps_per_epoch)
        with hand_over(feed, start, last * steps_per_epoch) as data:
            trainer.fit(
                data,
                initial_epoch=first,
                epochs=last,
                steps_per_epoch=steps_per_epoch - start % steps_per_epoch,
                callbacks=watching,
                shuffle=False,  # the feed shuffles
                verbose=0,
            )


def _broken_images(batches):
    """Returns the number of images that could not be decoded so far."""
    return sum(each.broken_images for each in batches)
