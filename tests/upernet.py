"""UperNet's parts by PyTorch (`tests/make_upernet.py`), and ours with its weights."""

import functools
from pathlib import Path

import numpy as np


@functools.cache
def reference():
    with np.load(Path(__file__).parent / "data" / "upernet.npz") as arrays:
        return dict(arrays)


def with_weights(layer, *input_shape):
    """A layer, built, with the reference's weights of its name."""
    layer.build(*input_shape)
    for weight in layer.weights:
        if "seed_generator" not in weight.path:
            weight.assign(reference()[weight.path])
    return layer


def maps():
    """The four maps that the reference starts from."""
    return list(reference()["maps"])


def scales(mode="eval"):
    """What becomes of them at four scales, by the reference."""
    return [reference()[f"{mode}/scale_{i}"] for i in range(4)]


def shapes(arrays):
    return [(None, *array.shape[1:]) for array in arrays]
