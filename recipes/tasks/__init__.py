"""The registry of tasks, which all commands use.

To add a task, implement `recipes.tasks.base.Task` in a new file and add it to `TASKS`.
"""

from .base import Task
from .classification import Classification
from .multi_label import MultiLabel
from .segmentation import Segmentation

TASKS: dict[str, Task] = {
    task.name: task for task in (Segmentation(), MultiLabel(), Classification())
}


def task_of(experiment):
    """Returns the task of an experiment, by the type of its training options."""
    return next(t for t in TASKS.values() if type(experiment.training) is t.training)


def task_of_model(name, model):
    """Returns the task of a model, from its record or run, or else from its type.

    Args:
        name: name of published weights, or path of a file or run folder.
        model: the model.
    """
    from ..evaluation.models import recorded_task

    known = recorded_task(name)
    if known in TASKS:
        return TASKS[known]
    return next(task for task in TASKS.values() if task.accepts(model))
