"""Trains a segmentation model as a config file says, and publishes it if asked.

    python -m recipes.segment CONFIG [--option value ...]
    python -m recipes.segment CONFIG --help

The backend is Keras's: KERAS_BACKEND=tensorflow, jax or torch.
"""

import recipes.configs.segmentation
from recipes.segmentation_experiment import Experiment


def segment(experiment, command="recipes.segment.segment(experiment)"):
    """Runs a `recipes.segmentation_experiment.Experiment`.

    Returns the model, in float32 and giving logits, and its data set.
    `recipes.training.loop.train` says more.
    """
    from recipes.training import loop

    return loop.train(_task(), experiment, command)


def as_run(experiment):
    """The experiment as it is run: with `smoke`, a short one of small batches."""
    from recipes.training import loop

    return loop.as_run(_task(), experiment)


def _task():
    from recipes.training.segmentation import Segmentation

    return Segmentation()


def main(arguments=None):
    from recipes.commands import configured, say_errors

    asked = configured(
        "recipes.segment",
        __doc__,
        recipes.configs.segmentation,
        Experiment,
        arguments,
    )
    if asked is None:
        return
    experiment, command = asked
    with say_errors():
        segment(experiment, command)


if __name__ == "__main__":
    main()
