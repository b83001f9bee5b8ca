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
    folder, too. The same experiment goes on where it was interrupted, from the last
    epoch that was completed, in the same run folder.

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
    from recipes.training.callbacks import Checkpoints, EpochLog, StopOnNonFiniteLoss
    from recipes.training.devices import distribute
    from recipes.training.optimizer import build_optimizer

    network, data, training, run = (
        experiment.network,
        experiment.data,
        experiment.training,
        experiment.run,
    )
    if run.smoke:
        training = _smoke(training)
    batch_size = training.global_batch_size
    # Before anything else wakes TensorFlow, which then has the devices it has.
    devices = distribute(run.devices, batch_size)
    dataset = load_dataset(data)
    if run.smoke:
        train, test = dataset.train.first(2 * batch_size), dataset.test.first(100)
        dataset = dataclasses.replace(dataset, train=train, test=test)
    keras.utils.set_random_seed(run.seed)
    classes = len(dataset.class_names)
    train_batches = TrainingBatches(
        dataset.train, classes, batch_size, data, training.label_smoothing, run.seed
    )
    test_batches = Batches(dataset.test, classes, batch_size)

    with devices:
        model = build_model(network, data, classes, run.precision)
        if run.publish:
            refuse_unpublishable(model, run.publish, run.weights_dir, run.overwrite)
        model.compile(
            optimizer=build_optimizer(training, len(train_batches), model),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True),
            weighted_metrics=["accuracy"],
        )
        _claim_run_folder(experiment, command)
        checkpoints = Checkpoints(run.run_dir / "checkpoints")
        first_epoch = checkpoints.restore(model)
    if 0 < first_epoch < training.epochs:
        print(f"Going on with epoch {first_epoch + 1} in {run.run_dir}.")
    model.fit(
        train_batches,
        validation_data=test_batches,
        initial_epoch=first_epoch,
        epochs=training.epochs,
        shuffle=False,  # the batches are, and Keras would shuffle their order again
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_begin=train_batches.begin_epoch),
            StopOnNonFiniteLoss(checkpoints),
            EpochLog(run.run_dir, first_epoch, len(train_batches) * batch_size),
            checkpoints,
        ],
    )
    classifier = in_float32(model, classifier_activation="softmax")
    classifier.save(run.run_dir / "partial.keras")
    os.replace(run.run_dir / "partial.keras", run.run_dir / "model.keras")
    if run.publish:
        trained = dataclasses.replace(experiment, training=training)
        publish_trained(classifier, dataset, trained, command)
    return classifier, dataset


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
