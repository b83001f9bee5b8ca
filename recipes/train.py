"""Trains a model as a config file says, and publishes it if asked.

    python -m recipes.train CONFIG [--option value ...]
    python -m recipes.train CONFIG --help

The backend is Keras's: KERAS_BACKEND=tensorflow, jax or torch.
"""

from .commands import experiment_of, report_errors


def train(experiment, command="recipes.train.train(experiment)"):
    """Runs a `recipes.experiment.Experiment`; returns the model and its data set.

    The model is in float32; a classifier gives probabilities, a segmentation model
    logits. `recipes.training.loop.train` says more.
    """
    from .tasks import task_of
    from .training import loop

    return loop.train(task_of(experiment), experiment, command)


def main(arguments=None):
    found = experiment_of("train", __doc__, arguments)
    if found is not None:
        with report_errors():
            train(*found)


if __name__ == "__main__":
    main()
