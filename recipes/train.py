"""Train a model from a config and optionally publish it.

    python -m recipes.train CONFIG [--option value ...]
    python -m recipes.train CONFIG --help

Set KERAS_BACKEND to tensorflow, jax or torch to choose the backend.
"""

from .commands import parse_experiment, report_errors


def train(experiment, command="recipes.train.train(experiment)"):
    """Runs a `recipes.experiment.Experiment`; returns the model and its data set.

    The model is in float32; a classifier returns probabilities, a segmentation model
    logits. See `recipes.training.loop.train` for details.
    """
    from .tasks import task_of
    from .training import loop

    return loop.train(task_of(experiment), experiment, command)


def main(arguments=None):
    found = parse_experiment("train", __doc__, arguments)
    if found is not None:
        with report_errors():
            train(*found)


if __name__ == "__main__":
    main()
