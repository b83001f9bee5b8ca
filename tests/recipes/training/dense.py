"""A dense layer that is trained as `tests/make_clipping.py` does, on some devices.

It learns from batches whose halves pull it elsewhere, one much stronger than the other:
if each of two devices clipped its own gradients, it would get other weights.
"""

from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_cbvit.internals import moving_averages
from recipes.options.classification import Training
from recipes.training import states
from recipes.training.devices import distribute
from recipes.training.optimizer import build_optimizer

FILE = Path(__file__).parents[2] / "data" / "clipping.npz"
BATCHES, BATCH_SIZE, FEATURES, OUTPUTS = 6, 8, 3, 4
RATE, EMA_DECAY = 0.1, 0.9
CASES = {
    "clip": {"clip_norm": 0.1},
    "accumulate": {"accumulation_steps": 2},
    "both": {"clip_norm": 0.1, "accumulation_steps": 2},
}


def problem():
    """The first weights, the batches, and what PyTorch makes of them."""
    with np.load(FILE) as arrays:
        return dict(arrays)


def build(case, devices=1, precision="float32"):
    """The layer, compiled, with its first weights."""
    training = Training(ema_decay=EMA_DECAY, **CASES[case])
    with distribute(devices, BATCH_SIZE):
        layer = keras.layers.Dense(OUTPUTS, dtype=precision)
        inputs = keras.Input((FEATURES,))
        model = keras.Model(inputs, layer(inputs))
        model.compile(build_optimizer(training, RATE, model, 1), loss="mse")
        states.build(model, ops.zeros((1, OUTPUTS)))
    start = problem()
    layer.set_weights([start["kernel"], start["bias"]])
    return model


def train(model, first=0, last=BATCHES, infinity=None):
    """Trains on some of the batches.

    With `infinity`, one of them: this sample of it becomes infinite.
    """
    batches = problem()
    features = batches["features"][first:last].reshape(-1, FEATURES)
    targets = batches["targets"][first:last].reshape(-1, OUTPUTS)
    if infinity is not None:
        features[infinity] = np.inf
    model.fit(features, targets, batch_size=BATCH_SIZE, shuffle=False, verbose=0)


def state(model):
    """Weights, their averages and the optimizer's variables, on each replica."""
    variables = dict(zip(("kernel", "bias"), model.weights, strict=True))
    averages = moving_averages(model.optimizer)
    variables |= zip(("kernel_average", "bias_average"), averages, strict=True)
    variables |= {variable.path: variable for variable in model.optimizer.variables}
    return {name: replicas(model, variable) for name, variable in variables.items()}


def replicas(model, variable):
    """An array with the values of a variable on all replicas of its model."""
    if keras.backend.backend() != "tensorflow":
        return ops.convert_to_numpy(variable)[None]
    values = model.distribute_strategy.experimental_local_results(variable.value)
    return np.stack([value.numpy() for value in values])


def assert_as_torch(found, case, tolerance):
    """Whether a `state` is PyTorch's, as a share of what the training changed."""
    torch = problem()
    for name in ("kernel", "bias", "kernel_average", "bias_average"):
        expected = torch[f"{case}/{name}"]
        changed = np.abs(expected - torch[name.removesuffix("_average")]).max()
        for replica in found[name]:
            difference = np.abs(replica - expected).max()
            assert difference <= tolerance * changed, (name, difference / changed)
