"""Summary of a finished run: metrics, files, and the command to evaluate it."""

import shlex

from ..commands import program
from .logs import read_log

_FILES = {
    "model": "model.keras",
    "averaged weights": "model_ema.keras",
    "report": "report.html",
    "log": "log.csv",
    "curves": "curves.png",
    "predictions": "predictions.png",
    "TensorBoard": "tensorboard",
    "Weights & Biases": "wandb",
    "checkpoints": "checkpoints",
}


def summary(run):
    """Returns the summary of a finished run as lines of text.

    Args:
        run: `recipes.experiment.Run` of the run.
    """
    last = read_log(run.folder / "log.jsonl")[-1]
    shown = [name for name in last if name == "loss" or name.startswith("val_")]
    numbers = ", ".join(f"{name} {last[name]:.4f}" for name in shown)
    places = {name: run.folder / file for name, file in _FILES.items()}
    places = {name: place for name, place in places.items() if place.exists()}
    if run.publish:
        places["published"] = f"{run.publish} in {run.weights_dir}"
    lines = [f"  {name:16}  {place}" for name, place in places.items()]
    command = f"{program('evaluate')} {shlex.quote(str(run.folder))}"
    done = f"Trained {last['epoch'] + 1} epochs: {numbers}."
    return "\n".join([done, *lines, f"Evaluate it: {command}"])
