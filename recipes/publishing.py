"""Publishing a model of any task together with its evaluation."""

from pathlib import Path

import keras_cbvit


def measure_and_publish(
    task, model, name, weights_dir, dataset, data, found=None, **facts
):
    """Evaluates a model on a data set's test images and publishes it with the results.

    Args:
        task: the `recipes.tasks.base.Task` of the model.
        model: the model, in float32.
        name: name under which to publish the model.
        weights_dir: folder in which to publish.
        dataset: the data set that the task loads for `data`.
        data: the `Data` of the task.
        found: what is measured, if it is known; see `Task.examine`.
        **facts: other arguments of `keras_cbvit.publish`.

    Returns:
        The `WeightsRecord`.
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
    """Returns the name of a data set in a record; a path becomes `./LAST_PART`."""
    path = Path(dataset).expanduser()
    is_path = path.is_absolute() or path.exists() or dataset.startswith(".")
    return f"./{path.name}" if is_path and dataset != "digits" else dataset
