"""Passes the batches of a feed to `fit`, `evaluate` and `predict`."""

import contextlib
import functools
import itertools
import threading

import keras

from ..data.batches import TrainingBatches
from ..data.feed import Feed


def check_feed(run):
    """Raises a ValueError if a run's `feed` or `data_service` is not supported.

    Args:
        run: a `recipes.experiment.Run`.
    """
    if run.feed == "grain" and run.data_service is not None:
        raise ValueError(f"data_service={run.data_service!r} requires --feed tf.data.")
    backend = keras.backend.backend()
    if run.feed == "tf.data" and backend != "tensorflow":
        raise ValueError(
            "--feed tf.data requires KERAS_BACKEND=tensorflow, but the backend is "
            f"{backend}; use --feed grain, which supports every backend."
        )


def build_feed(batches, run):
    """Returns the feed of a run's training batches.

    Raises:
        ValueError: if `--feed tf.data` does not support the batches.
    """
    if run.feed == "grain":
        return Feed(batches, run.workers)
    if not isinstance(batches, TrainingBatches):
        raise ValueError("--feed tf.data only supports classification; use grain.")
    from ..data.tf_data import TensorFlowFeed

    return TensorFlowFeed(batches, run.data_service)


@contextlib.contextmanager
def hand_over(feed, first, last):
    """Provides the batches of a range of steps as Keras takes them, in a context.

    Args:
        feed: a `recipes.data.feed.Feed`, or another result of `build_feed`.
        first: number of the first step.
        last: number of the step after the last one.
    """
    if not isinstance(feed, Feed):
        with feed.name_broken_images():
            yield feed.dataset(first)
        return
    if keras.backend.backend() != "tensorflow":
        with contextlib.closing(feed.read(first, last, _placement())) as reader:
            yield reader
        return
    with _tensorflow_dataset(feed, first, last) as dataset:
        yield dataset


@contextlib.contextmanager
def _tensorflow_dataset(feed, first, last):
    """Provides the batches as a `tf.data.Dataset`, which prefetches to the replicas.

    With several replicas, `fit` takes a batch to build the model and then restarts,
    while TensorFlow's threads still read. Therefore a new reader closes the last one.
    """
    import tensorflow as tf

    lock, reader, failures = threading.Lock(), None, []

    def read():
        nonlocal reader
        close()
        reader = own = feed.read(first, last)
        while True:
            with lock:
                try:
                    batch = next(own)
                except StopIteration:
                    return
                except Exception as error:
                    failures.append(error)
                    raise
            yield batch

    def close():
        with lock:
            if reader is not None:
                reader.close()

    try:
        batches = read()
        head = next(batches)
        readers = iter([itertools.chain([head], batches)])
        del batches
        yield tf.data.Dataset.from_generator(
            lambda: next(readers, None) or read(),
            output_signature=tf.nest.map_structure(
                lambda values: tf.TensorSpec(values.shape, values.dtype), head
            ),
        )
    except tf.errors.OpError:
        if failures:  # TensorFlow wrapped it in a graph error
            raise failures[0] from None
        raise
    finally:
        close()


def _placement():
    """Returns a function that starts copying a batch to the devices.

    It copies ahead, whereas Keras finishes a step before it takes the next batch.
    Returns `None` if Keras has to copy the batches.
    """
    if keras.backend.backend() == "torch":
        device = keras.ops.zeros(()).device
        to_device = functools.partial(_torch_tensor, device=device)
        return functools.partial(keras.tree.map_structure, to_device)
    import jax

    # With several processes, Keras takes the shard of each one from the host.
    distribution = keras.distribution.distribution()
    if distribution is None or jax.process_count() > 1:
        return None

    def place(values):
        layout = distribution.get_data_layout(values.shape).backend_layout
        return jax.device_put(values, layout)

    return functools.partial(keras.tree.map_structure, place)


def _torch_tensor(values, device):
    """Returns a tensor on the device, copied asynchronously from pinned memory."""
    import torch

    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


def predict(model, batches, workers=None, verbose=0):
    """Returns a model's predictions for each image.

    Args:
        model: a Keras model.
        batches: a `recipes.data.batches.Batches`.
        workers: number of workers of the `Feed`.
        verbose: see `keras.Model.predict`.
    """
    with _hand_over_all(batches, workers) as data:
        found = model.predict(data, steps=len(batches), verbose=verbose)
    return found[: len(batches.labels)]


def evaluate(model, batches, workers=None):
    """Returns a dict of a compiled model's loss and metrics over all images.

    For the arguments, see `predict`.
    """
    with _hand_over_all(batches, workers) as data:
        steps = len(batches)
        return model.evaluate(data, steps=steps, verbose=0, return_dict=True)


def _hand_over_all(batches, workers):
    # Images in memory need no workers.
    feed = Feed(batches, 0 if batches.in_memory else workers)
    return hand_over(feed, 0, len(batches))
