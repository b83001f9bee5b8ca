"""Measuring a model of any task and publishing it with what was measured."""

from pathlib import Path

import keras_cbvit


def measure_and_publish(
    task, model, name, weights_dir, dataset, data, found=None, **facts
):
    """Publishes a model with what is measured of it on a data set's test images.

    Args:
        task: the `recipes.tasks.base.Task` of the model.
        model: the model, in float32.
        name: to publish it under.
        weights_dir: the folder to publish into.
        dataset: what the task loads of `data`.
        data: the `Data` of the task.
        found: what is measured, if it is known; see `Task.examine`.
        **facts: other arguments of `keras_cbvit.publish`.

    Returns:
        The record.
    """
    metrics, images, notes, options, own = task.measure_to_publish(
        name, model, dataset, data, found
    )
    evaluation = keras_cbvit.Evaluation(
        task=task.name,
        dataset=_name_of(data.dataset),
        split=data.test_split,
        metrics=metrics,
        images=images,
        command=f"python -m recipes.evaluate {name} --data-dir DIR",
        options=options,
        notes=notes,
    )
    record = keras_cbvit.publish(
        model, name, weights_dir, evaluations=[evaluation], **own, **facts
    )
    metric, value = next(iter(metrics.items()))
    print(
        f"Published {Path(weights_dir) / record.filename}: {metric} {value:.4f} on "
        f"{evaluation.dataset}, {evaluation.split} ({notes})."
    )
    return record


def _name_of(dataset):
    """What a record calls a data set: of a path its last part, after `./`."""
    path = Path(dataset).expanduser()
    is_path = path.is_absolute() or path.exists() or dataset.startswith(".")
    return f"./{path.name}" if is_path and dataset != "digits" else dataset
