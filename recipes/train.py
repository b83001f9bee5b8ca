"""Trains a model as a config file says, and publishes it if asked.

    python -m recipes.train CONFIG [--option value ...]
    python -m recipes.train CONFIG --help

The backend is Keras's: KERAS_BACKEND=tensorflow, jax or torch.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import pkgutil
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

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
    from recipes.data.batches import Batches, TrainingBatches
    from recipes.data.sources import load_dataset
    from recipes.training import callbacks
    from recipes.training.augmented import Augmented
    from recipes.training.devices import distribute, this_process
    from recipes.training.optimizer import build_optimizer

    if experiment.run.smoke:
        experiment = dataclasses.replace(
            experiment, training=_smoke(experiment.training)
        )
    network, data, augmentation, training, run = (
        experiment.network,
        experiment.data,
        experiment.augmentation,
        experiment.training,
        experiment.run,
    )
    # Before anything else wakes the backend, which then has the devices it has.
    with distribute(run.devices, training.global_batch_size):
        check(experiment)
        part = this_process()
        is_first = part[0] == 0
        originals = augmentation.random_resized_crop
        dataset = load_dataset(data, originals=originals)
        classes = len(dataset.class_names)
        if run.smoke:
            dataset = _first_images(dataset, 2 * training.global_batch_size)
        keras.utils.set_random_seed(run.seed)
        step_size = training.global_batch_size // training.accumulation_steps
        train_batches = TrainingBatches(
            dataset.train,
            classes,
            step_size,
            augmentation,
            training.label_smoothing,
            run.seed,
            part,
            data.strict,
        )
        test_batches = Batches(dataset.test, classes, step_size, part, data.strict)
        steps_per_epoch = train_batches.steps_per_epoch
        model = build_model(network, data, classes, run.precision)
        if run.publish:
            refuse_unpublishable(model, run.publish, run.weights_dir, run.overwrite)
        trainer = Augmented(model)
        trainer.compile(
            optimizer=build_optimizer(training, steps_per_epoch, model),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True),
            weighted_metrics=["accuracy"],
        )
        trainer.optimizer.build(trainer.trainable_variables)
        # Builds loss and metrics, whose shapes `fit` would look for in a batch that is
        # not augmented yet.
        trainer.evaluate(test_batches, steps=1, verbose=0)
        if is_first:
            _claim_run_folder(experiment, command)
        checkpoints = callbacks.Checkpoints(
            run.run_dir / "checkpoints",
            steps_per_epoch,
            run.checkpoint_steps,
            write=is_first,
        )
        step = checkpoints.restore(trainer)
        epoch, done = divmod(step, steps_per_epoch)
        if is_first and 0 < step < training.epochs * steps_per_epoch:
            print(f"Going on after step {done} of epoch {epoch + 1} in {run.run_dir}.")

        def broken_images():
            return sum(
                batches.split.broken + len(batches.broken)
                for batches in (train_batches, test_batches)
            )

        watching = [callbacks.StopOnNonFiniteLoss(checkpoints)]
        if training.ema_decay is not None:
            watching.insert(0, callbacks.EvaluateAverages(test_batches))
        if is_first:
            watching += [
                callbacks.Progress(step, steps_per_epoch, training.epochs, step_size),
                callbacks.EpochLog(run.run_dir, epoch, step_size, broken_images),
            ]
        watching.append(checkpoints)
        # An epoch that was interrupted is shorter than the others.
        pieces = [(epoch, epoch + 1), (epoch + 1, training.epochs)] if done else []
        for first, last in pieces or [(epoch, training.epochs)]:
            if first >= last:
                continue
            start = max(step, first * steps_per_epoch)
            end = last * steps_per_epoch
            trainer.fit(
                train_batches.for_fit(start, end),
                validation_data=test_batches,
                initial_epoch=first,
                epochs=last,
                steps_per_epoch=steps_per_epoch - start % steps_per_epoch,
                callbacks=watching,
                shuffle=False,  # the batches are
                verbose=0,
            )
    if broken_images():
        print(f"{broken_images()} pictures could not be decoded and were left out.")
    classifier = in_float32(model, classifier_activation="softmax")
    if is_first:
        _save(classifier, run.run_dir / "model.keras")
    if training.ema_decay is not None:
        with callbacks.averaged(trainer):
            averages = in_float32(model, classifier_activation="softmax")
        if is_first:
            _save(averages, run.run_dir / "model_ema.keras")
    if run.publish and is_first:
        publish_trained(classifier, dataset, experiment, command)
    return classifier, dataset


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
    for name in ("epochs", "global_batch_size"):
        if getattr(training, name) < 1:
            raise ValueError(f"{name}={getattr(training, name)} must be at least 1.")
    if run.checkpoint_steps < 1:
        raise ValueError(f"checkpoint_steps={run.checkpoint_steps} must be at least 1.")
    if experiment.augmentation.repeats < 1:
        raise ValueError(
            f"repeats={experiment.augmentation.repeats} must be at least 1."
        )
    if training.ema_decay is not None and not 0 <= training.ema_decay < 1:
        raise ValueError(
            f"ema_decay={training.ema_decay} must be at least 0 and less than 1."
        )
    # The network says what is wrong with its arguments; the classes come with the data.
    build_model(network, data, 2, run.precision)


def _first_images(dataset, number):
    return dataclasses.replace(
        dataset, train=dataset.train.first(number), test=dataset.test.first(100)
    )


def _save(model, path):
    """Saves a `.keras` file, which is there as a whole or not at all."""
    partial = path.with_name("partial.keras")
    model.save(partial)
    os.replace(partial, path)


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


def _smoke(training):
    batch_size = max(training.global_batch_size // 16, 16)
    return dataclasses.replace(
        training, epochs=2, warmup_epochs=1, global_batch_size=batch_size
    )


def _claim_run_folder(experiment, command):
    """Writes `config.json`, or checks that it is of the same experiment."""
    import keras

    folder = experiment.run.run_dir
    settings = json.loads(json.dumps(dataclasses.asdict(experiment), default=str))
    file = folder / "config.json"
    if file.exists():
        found = json.loads(file.read_text())["experiment"]
        differences = ", ".join(_differences(found, settings))
        if differences:
            raise ValueError(
                f"{folder} holds a run with other settings ({differences}); give "
                "another --run-dir, or remove it."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    versions = {}
    for package in ("keras", "tensorflow", "jax", "torch", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    config = {
        "command": command,
        "experiment": settings,
        "backend": keras.backend.backend(),
        "versions": {"python": platform.python_version(), **versions},
        "commit": _git_commit(),
    }
    file.write_text(json.dumps(config, indent=2) + "\n")


# What becomes of a trained model may change between two starts of a run.
_FREE = ("publish", "weights_dir", "overwrite", "licence", "run_dir")


def _differences(found, settings):
    for group, values in settings.items():
        for key, value in values.items():
            if key not in _FREE and found.get(group, {}).get(key) != value:
                yield f"{key}={found.get(group, {}).get(key)!r}, not {value!r}"


def _git_commit():
    """The commit of this checkout, marked if files differ from it; `None` if none."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


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
