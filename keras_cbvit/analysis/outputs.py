"""Outputs of layers within a model, by path."""

import collections
import contextlib
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_cbvit.annotations import Tensor
from keras_cbvit.arguments import items, refuse
from keras_cbvit.internals import layers_within
from keras_cbvit.models.base import ZooModel


def layer_outputs(
    model: keras.Model, images: np.ndarray, layers: str | Sequence[str]
) -> dict[str, np.ndarray]:
    """Returns the outputs of layers of a model, nested layers included.

    Calls the model once and does not change it. All outputs are in memory at once.

    Args:
        model: any Keras model with one input.
        images: an array of images, as inputs of the model.
        layers: paths of layers, or patterns with `*` and `?`:
            `"block_3/mlp/context_broadcast"` is CB in the fourth block,
            `"*/context_broadcast"` in all.

    Returns:
        Arrays by path of the layers, in execution order. If a layer runs several times,
        its last output is returned.

    Raises:
        ValueError: if a path or pattern matches no layer, or a layer that shares its
            path with another, does not run, or has several outputs.
    """
    counts = collections.Counter(layer.path for layer in layers_within(model))
    if isinstance(model, ZooModel):
        known = model.layers_by_path()
    else:
        known = {layer.path: layer for layer in layers_within(model) if layer.path}
    patterns = [layers] if isinstance(layers, str) else items(layers)
    if patterns is None or not all(isinstance(each, str) for each in patterns):
        refuse("layers", layers, "must be paths of layers, or patterns of paths.")
    wanted = set()
    for pattern in patterns:
        if not (matches := fnmatch.filter(known, pattern)):
            some = ", ".join(list(known)[:8])
            refuse("layers", pattern, f"matches no layer of {model.name}: {some}, …")
        wanted.update(matches)
    if several := sorted(path for path in wanted if counts[known[path].path] > 1):
        raise ValueError(f"{model.name} has several layers with the path {several[0]}.")
    found = {}

    def keep(path):
        def function(inputs, outputs):
            found.pop(path, None)  # keeps the order of the last calls
            found[path] = outputs

        return function

    with contextlib.ExitStack() as stack:
        for path in wanted:
            stack.enter_context(observe(known[path], keep(path)))
        model(images, training=False)
    if missing := sorted(wanted - found.keys()):
        raise ValueError(f"{missing[0]} does not run when {model.name} is called.")
    if several := [p for p, x in found.items() if isinstance(x, list | tuple | dict)]:
        raise ValueError(f"{several[0]} has several outputs, not one.")
    return {path: keras.ops.convert_to_numpy(x) for path, x in found.items()}


@contextlib.contextmanager
def observe(
    layer: keras.layers.Layer, function: Callable[[Tensor, Any], None]
) -> Iterator[None]:
    """Calls a function with the inputs and outputs of each call of a layer.

    Does not change the graph of a model with the layer.
    """
    name = "quantized_call" if layer.quantization_mode else "call"
    call = getattr(layer, name)

    def call_and_observe(inputs, *args, **kwargs):
        outputs = call(inputs, *args, **kwargs)
        function(inputs, outputs)
        return outputs

    # Not setattr(), with which Keras would track it.
    object.__setattr__(layer, name, call_and_observe)
    try:
        yield
    finally:
        object.__delattr__(layer, name)
