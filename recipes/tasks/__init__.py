"""What models are trained for: the registry that all commands ask.

A task is a class with the methods of `recipes.tasks.base.Task`, in a file of its own,
and a line in `TASKS`.
"""

from .base import Task
from .classification import Classification
from .multi_label import MultiLabel
from .segmentation import Segmentation

TASKS: dict[str, Task] = {
    task.name: task for task in (Segmentation(), MultiLabel(), Classification())
}


def task_of(experiment):
    """The task of an experiment, by the kind of its training."""
    return next(t for t in TASKS.values() if type(experiment.training) is t.training)


def task_of_model(name, model):
    """The task that a model was trained for: as its record or run says, or its kind.

    Args:
        name: of published weights, a file or a run folder.
        model: the model.
    """
    from ..evaluation.models import recorded_task

    known = recorded_task(name)
    if known in TASKS:
        return TASKS[known]
    return next(task for task in TASKS.values() if task.accepts(model))
