"""Trains a model as a config file says, and publishes it if asked.

    python -m recipes.train CONFIG [--option value ...]
    python -m recipes.train CONFIG --help

The backend is Keras's: KERAS_BACKEND=tensorflow, jax or torch.
"""

import dataclasses
import functools
import importlib
import math
import pkgutil
import shlex
import sys

import recipes.configs
from recipes.experiment import Experiment, build_model


def train(experiment, command="recipes.train.train(experiment)"):
    """Runs an experiment; returns the trained classifier and its data set.

    The classifier, in float32 and with probabilities, is `model.keras` in the run
    folder, too; with `ema_decay`, `model_ema.keras` is the one with the moving averages
    of the weights. The same experiment goes on where it was interrupted, from the last
    checkpoint in the same run folder, to the same weights as without interruption.

    Args:
        experiment: a `recipes.experiment.Experiment`.
        command: what a model card gives as the recipe.

    Raises:
        ValueError: on settings that do not go together, or a run folder of another
            experiment.
        MissingDatasetError: if the data set is not there.
        NonFiniteLossError: if the loss becomes NaN.
    """
    import keras

    from keras_cbvit.pretrained.publishing import in_float32, refuse_unpublishable
    from recipes.data.sources import load_dataset
    from recipes.training import run_folder
    from recipes.training.callbacks import averaged
    from recipes.training.devices import distribute, this_process

    experiment = as_run(experiment)
    network, data, training, run = (
        experiment.network,
        experiment.data,
        experiment.training,
        experiment.run,
    )
    # Before anything else wakes the backend, which then has the devices it has.
    with distribute(run.devices, training.global_batch_size):
        check(experiment)
        is_first = this_process()[0] == 0
        originals = experiment.augmentation.random_resized_crop
        dataset = load_dataset(data, originals=originals)
        if run.smoke:
            dataset = _first_images(dataset, 2 * training.global_batch_size)
        keras.utils.set_random_seed(run.seed)
        batches = _batches(experiment, dataset)
        model = build_model(network, data, len(dataset.class_names), run.precision)
        if run.publish:
            refuse_unpublishable(model, run.publish, run.weights_dir, run.overwrite)
        trainer = _compiled(model, training, *batches)
        if is_first:
            run_folder.claim(experiment, command)
            print(
                f"{dataset.description}: {len(dataset.train)} training and "
                f"{len(dataset.test)} test images of {len(dataset.class_names)} "
                f"classes, {batches[0].steps_per_epoch} steps per epoch, on "
                f"{keras.backend.backend()}."
            )
        _fit(trainer, *batches, training, run)
    if broken := _broken_images(batches):
        print(f"{broken} pictures could not be decoded and were left out.")
    classifier = in_float32(model, classifier_activation="softmax")
    if is_first:
        run_folder.save(classifier, run.folder / "model.keras")
        print(f"The model is in {run.folder / 'model.keras'}.")
    if training.ema_decay is not None:
        with averaged(trainer):
            averages = in_float32(model, classifier_activation="softmax")
        if is_first:
            run_folder.save(averages, run.folder / "model_ema.keras")
    if run.publish and is_first:
        publish_trained(classifier, dataset, experiment, command)
    return classifier, dataset


def _batches(experiment, dataset):
    """The training and the test images of a data set, in batches."""
    from recipes.data.batches import Batches, TrainingBatches
    from recipes.training.devices import this_process

    training, strict = experiment.training, experiment.data.strict
    classes, part = len(dataset.class_names), this_process()
    batch_size = training.global_batch_size // training.accumulation_steps
    train_batches = TrainingBatches(
        dataset.train,
        classes,
        batch_size,
        experiment.augmentation,
        training.label_smoothing,
        experiment.run.seed,
        part,
        strict,
    )
    return train_batches, Batches(dataset.test, classes, batch_size, part, strict)


def _compiled(model, training, train_batches, test_batches):
    """The model as it is trained: augmenting, with loss and optimizer built."""
    import keras

    from recipes.training.augmented import Augmented
    from recipes.training.optimizer import build_optimizer
    from recipes.training.schedule import WarmupCosine

    schedule = WarmupCosine.of(training, train_batches.steps_per_epoch)
    trainer = Augmented(model)
    trainer.compile(
        optimizer=build_optimizer(training, schedule, model),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    trainer.optimizer.build(trainer.trainable_variables)
    # Builds loss and metrics, whose shapes `fit` would look for in a batch that is
    # not augmented yet.
    trainer.evaluate(test_batches, steps=1, verbose=0)
    return trainer


def _fit(trainer, train_batches, test_batches, training, run):
    """Trains to the end, from the last checkpoint in the run folder if there is one."""
    from recipes.training import callbacks
    from recipes.training.devices import this_process

    is_first = this_process()[0] == 0
    steps_per_epoch = train_batches.steps_per_epoch
    checkpoints = callbacks.Checkpoints(
        run.folder / "checkpoints",
        steps_per_epoch,
        run.checkpoint_steps,
        write=is_first,
    )
    step = checkpoints.restore(trainer)
    epoch, done = divmod(step, steps_per_epoch)
    if is_first and 0 < step < training.epochs * steps_per_epoch:
        print(f"Going on after step {done} of epoch {epoch + 1} in {run.folder}.")
    watching = [callbacks.StopOnNonFiniteLoss(checkpoints)]
    if training.ema_decay is not None:
        watching.insert(0, callbacks.EvaluateAverages(test_batches))
    if is_first:
        images, epochs = train_batches.batch_size, training.epochs
        broken = functools.partial(_broken_images, (train_batches, test_batches))
        watching += [
            callbacks.Progress(step, steps_per_epoch, epochs, images),
            callbacks.EpochLog(run.folder, epoch, images, broken),
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
            validation_data=test_batches,
            initial_epoch=first,
            epochs=last,
            steps_per_epoch=steps_per_epoch - start % steps_per_epoch,
            callbacks=watching,
            shuffle=False,  # the batches are
            verbose=0,
        )


def _broken_images(batches):
    """How many pictures of some batches could not be decoded so far."""
    return sum(each.split.broken + len(each.broken) for each in batches)


_RANGES = {
    "repeats": (1, math.inf),
    "shift": (0, math.inf),
    "rand_augment": (0, 10),
    "erasing": (0, 1),
    "mixup_alpha": (0, math.inf),
    "cutmix_alpha": (0, math.inf),
    "epochs": (1, math.inf),
    "global_batch_size": (1, math.inf),
    "base_learning_rate": (0, math.inf),
    "warmup_epochs": (0, math.inf),
    "warmup_learning_rate": (0, math.inf),
    "minimum_learning_rate": (0, math.inf),
    "weight_decay": (0, math.inf),
    "label_smoothing": (0, 1),
    "clip_norm": (0, math.inf),
    "ema_decay": (0, 1),
    "checkpoint_steps": (1, math.inf),
}


def check(experiment):
    """Refuses settings that do not go together, before the data are fetched."""
    network, data, training, run = (
        experiment.network,
        experiment.data,
        experiment.training,
        experiment.run,
    )
    parts = training.accumulation_steps
    if parts < 1 or training.global_batch_size % parts:
        raise ValueError(
            f"accumulation_steps={parts} must divide the global_batch_size="
            f"{training.global_batch_size}."
        )
    for group in (experiment.augmentation, training, run):
        for name, (lowest, highest) in _RANGES.items():
            value = getattr(group, name, None)
            if value is not None and not lowest <= value <= highest:
                upwards = f"at least {lowest}"
                both = f"between {lowest} and {highest}"
                wanted = upwards if highest == math.inf else both
                raise ValueError(f"{name}={value} must be {wanted}.")
    # The network says what is wrong with its arguments; the classes come with the data.
    build_model(network, data, 2, run.precision)


def _first_images(dataset, number):
    return dataclasses.replace(
        dataset, train=dataset.train.first(number), test=dataset.test.first(100)
    )


def publish_trained(classifier, dataset, experiment, command):
    """Measures a trained classifier on the test images and publishes it."""
    import keras

    from recipes.publish import measure_and_publish

    run, training = experiment.run, experiment.training
    return measure_and_publish(
        classifier,
        run.publish,
        run.weights_dir,
        dataset,
        trained_on=f"{dataset.description}, {len(dataset.train)} images",
        recipe=command,
        licence=run.licence,
        notes=(
            f"{training.epochs} epochs in batches of {training.global_batch_size}, "
            f"{run.precision}, seed {run.seed}, on {keras.backend.backend()}; one "
            "run, so the accuracy has no spread. `config.json` of the run folder "
            "has every setting.\n"
        ),
        overwrite=run.overwrite,
    )


def as_run(experiment):
    """The experiment as it is run: with `smoke`, a short one of small batches."""
    if not experiment.run.smoke:
        return experiment
    training = experiment.training
    batch_size = max(training.global_batch_size // 16, 16)
    training = dataclasses.replace(
        training, epochs=2, warmup_epochs=1, global_batch_size=batch_size
    )
    return dataclasses.replace(experiment, training=training)


def config_names():
    """The configs there are."""
    return [module.name for module in pkgutil.iter_modules(recipes.configs.__path__)]


def _without_sizes_of(default, experiment):
    """With another `--model`, the config's own sizes are not meant."""
    network = experiment.network
    if network.model == default.network.model:
        return experiment
    unmeant = {
        size: None
        for size in ("hidden_dim", "depth", "num_heads", "mlp_ratio")
        if getattr(network, size) == getattr(default.network, size)
    }
    return dataclasses.replace(
        experiment, network=dataclasses.replace(network, **unmeant)
    )


def main(arguments=None):
    from recipes.commands import parse, say_errors

    arguments = sys.argv[1:] if arguments is None else arguments
    known = ", ".join(config_names())
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\nConfigs: {known}")
        return
    name, *options = arguments
    if name not in config_names():
        sys.exit(f"There is no config {name!r}; there are {known}.")
    config = importlib.import_module(f"recipes.configs.{name}")
    default = config.config()
    prog = f"recipes.train {name}"
    experiment = parse(prog, Experiment, config.__doc__, options, default)
    experiment = _without_sizes_of(default, experiment)
    command = shlex.join(["python", "-m", "recipes.train", *arguments])
    with say_errors():
        train(experiment, command)


if __name__ == "__main__":
    main()
