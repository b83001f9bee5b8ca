"""Trains a model as a config file says, and publishes it if asked.

    python -m recipes.train CONFIG [--option value ...]
    python -m recipes.train CONFIG --help

The backend is Keras's: KERAS_BACKEND=tensorflow, jax or torch.
"""

import recipes.configs
from recipes.commands import config_names_in
from recipes.experiment import Experiment


def train(experiment, command="recipes.train.train(experiment)"):
    """Runs a `recipes.experiment.Experiment`; returns the classifier and its data set.

    The classifier is in float32 and gives probabilities. `recipes.training.loop.train`
    says more.
    """
    from recipes.training import loop

    return loop.train(_task(), experiment, command)


def as_run(experiment):
    """The experiment as it is run: with `smoke`, a short one of small batches."""
    from recipes.training import loop

    return loop.as_run(_task(), experiment)


def _task():
    from recipes.training.classification import Classification

    return Classification()


def config_names():
    """The configs there are."""
    return config_names_in(recipes.configs)


def main(arguments=None):
    from recipes.commands import configured, say_errors

    asked = configured("recipes.train", __doc__, recipes.configs, Experiment, arguments)
    if asked is None:
        return
    experiment, command = asked
    with say_errors():
        train(experiment, command)


if __name__ == "__main__":
    main()
