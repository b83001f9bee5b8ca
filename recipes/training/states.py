"""Checkpoint files: Keras's weights, the states that Keras omits, and a checksum."""

import hashlib
import io
import warnings

import h5py
import keras

from keras_cbvit.files import InMemory, write
from keras_cbvit.internals import layers_within


def build(model, labels):
    """Creates the variables of a compiled model's optimizer, loss and metrics.

    If a training step created them, TensorFlow would trace it a second time, which
    doubles the compile time.

    Args:
        model: compiled functional model.
        labels: batch of one label.
    """
    model.optimizer.build(model.trainable_variables)
    outputs = keras.tree.map_structure(
        lambda output: keras.ops.zeros([size or 1 for size in output.shape]),
        model.output,
    )
    with keras.StatelessScope():  # leaves the metrics unchanged
        model.compute_loss(None, labels, outputs)
        model.compute_metrics(None, labels, outputs)


def save(model, path, metrics=()):
    """Writes a checkpoint that the training of a compiled model can resume from.

    It holds the model, its optimizer, the random states, the LoRA weights, which Keras
    would merge into the kernels, and metrics. The file is a `.weights.h5` file followed
    by the SHA-256 of its name and content, which HDF5 ignores.

    Args:
        model: compiled model.
        path: path of the checkpoint.
        metrics: metrics variables to save.

    Raises:
        OSError: if the file cannot be written.
    """
    file = InMemory(path.name)
    # Keras creates a variable while saving. Under a distribution, that would require
    # all processes to participate.
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        model.save_weights(file, overwrite=True)
    finally:
        keras.distribution.set_distribution(distribution)
    with h5py.File(file, "a") as content:
        for name, variables in (
            ("random_states", random_states(model)),
            ("lora", lora_weights(model)),
            ("metrics", metrics),
        ):
            for i, variable in enumerate(variables):
                content[f"{name}/{i}"] = keras.ops.convert_to_numpy(variable)
    digest = _digest(path, file.getbuffer())
    file.seek(0, io.SEEK_END)
    file.write(digest)
    write(path, file.getbuffer())


def read(path):
    """Returns a checkpoint that `save` wrote as a file in memory.

    Raises:
        ValueError: if the file is damaged.
        OSError: if the file cannot be read.
    """
    if not path.is_file():  # reading a named pipe would wait for a writer
        raise ValueError("it is not a regular file")
    content = path.read_bytes()
    if content[-32:] != _digest(path, memoryview(content)[:-32]):
        raise ValueError("its checksum is wrong")
    return InMemory(path.name, content)


def load(model, file):
    """Restores a model from the result of `read` and returns the metrics' values.

    Raises:
        ValueError, KeyError, UserWarning: if the checkpoint does not fit the model.
    """
    with warnings.catch_warnings():
        # Keras only warns if the number of optimizer variables differs.
        warnings.filterwarnings("error", "Skipping variable loading")
        model.load_weights(file)
    with h5py.File(file) as content:
        for name, variables in (
            ("random_states", random_states(model)),
            ("lora", lora_weights(model)),
        ):
            for variable, value in zip(variables, _arrays(content, name), strict=True):
                variable.assign(value)
        return _arrays(content, "metrics")


def _digest(path, content):
    digest = hashlib.sha256(path.name.encode())
    digest.update(content)
    return digest.digest()


def _arrays(file, name):
    """Returns the numbered arrays of a group as a list."""
    group = file.get(name, {})
    return [group[str(i)][()] for i in range(len(group))]


def sync(model):
    """Updates a model's variables during training; JAX trains copies of them."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def random_states(model):
    """Returns the seed generator states, which Keras does not save with weights."""
    saved = {id(v) for v in (*model.weights, *model.metrics_variables)}
    return [v for v in model.variables if id(v) not in saved]


def lora_weights(model):
    """Returns all weights of the layers with LoRA, including their kernels."""
    return [
        weight
        for layer in layers_within(model)
        if getattr(layer, "lora_enabled", False)
        for weight in layer.weights
    ]
