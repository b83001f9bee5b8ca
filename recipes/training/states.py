"""The file of a checkpoint: Keras's weights, what Keras leaves out, and a checksum."""

import hashlib
import io
import warnings

import h5py
import keras

from keras_cbvit.files import InMemory, write
from keras_cbvit.internals import layers_within


def build(model, labels):
    """Creates the variables of a compiled model's optimizer, loss and metrics.

    Of a step that creates some, TensorFlow traces a second one, which takes as long
    again.

    Args:
        model: a functional model.
        labels: a batch of one label.
    """
    model.optimizer.build(model.trainable_variables)
    outputs = keras.tree.map_structure(
        lambda output: keras.ops.zeros([size or 1 for size in output.shape]),
        model.output,
    )
    with keras.StatelessScope():  # nothing is counted
        model.compute_loss(None, labels, outputs)
        model.compute_metrics(None, labels, outputs)


def save(model, path, metrics=()):
    """Writes all that the training of a compiled model needs to go on.

    That is the model and its optimizer, the random states, LoRA's weights, which Keras
    would merge into the kernels, and some metrics. The file is a `.weights.h5` file;
    the SHA-256 of its name and content is at its end, which HDF5 does not mind.

    Args:
        model: the model.
        path: where to.
        metrics: variables of the model's metrics.

    Raises:
        OSError: if it cannot be written.
    """
    file = InMemory(path.name)
    # Keras makes a variable while it saves, which the other processes would have to
    # take part in under a distribution.
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
    """What `save` wrote, in memory, as it was.

    Raises:
        ValueError: if it is damaged.
        OSError: if it cannot be read.
    """
    if not path.is_file():  # reading a named pipe would wait for a writer
        raise ValueError("it is not a regular file")
    content = path.read_bytes()
    if content[-32:] != _digest(path, memoryview(content)[:-32]):
        raise ValueError("its checksum is wrong")
    return InMemory(path.name, content)


def load(model, file):
    """Brings a model back to what `read` gave; returns the values of the metrics.

    Raises:
        ValueError, KeyError, UserWarning: if it is of another model.
    """
    with warnings.catch_warnings():
        # Keras leaves an optimizer as it is whose variables are of another number.
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
    """The arrays of a group, which are numbered."""
    group = file.get(name, {})
    return [group[str(i)][()] for i in range(len(group))]


def sync(model):
    """Brings a model's variables up to date; JAX trains on copies of them."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def random_states(model):
    """States of a model's generators, which Keras does not save with its weights."""
    saved = {id(v) for v in (*model.weights, *model.metrics_variables)}
    return [v for v in model.variables if id(v) not in saved]


def lora_weights(model):
    """Of the layers that have LoRA, the weights it consists of, and their kernels."""
    return [
        weight
        for layer in layers_within(model)
        if getattr(layer, "lora_enabled", False)
        for weight in layer.weights
    ]
