"""What layers within a model compute, by their paths."""

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
    """The outputs of layers of a model, also of those within other layers.

    The model stays as it is, and runs once as it does when it is called. All outputs
    are in memory at once.

    Args:
        model: any Keras model of one input.
        images: an array of images, as the model takes them.
        layers: paths of layers, or patterns of paths with `*` and `?`:
            `"block_3/mlp/context_broadcast"` is CB in the fourth block,
            `"*/context_broadcast"` in each.

    Returns:
        Arrays by the paths of the layers, in the order they run in. Of a layer that
        runs several times, the output of the last time counts.

    Raises:
        ValueError: if a path or pattern matches no layer, or a layer that it matches
            has the path of another one, does not run or gives several outputs.
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
        if not (matching := fnmatch.filter(known, pattern)):
            some = ", ".join(list(known)[:8])
            refuse("layers", pattern, f"matches no layer of {model.name}: {some}, …")
        wanted.update(matching)
    if several := sorted(path for path in wanted if counts[known[path].path] > 1):
        raise ValueError(f"{model.name} has several layers of the path {several[0]}.")
    found = {}

    def keep(path):
        def function(inputs, outputs):
            found.pop(path, None)  # the order is that of the last calls
            found[path] = outputs

        return function

    with contextlib.ExitStack() as stack:
        for path in wanted:
            stack.enter_context(observed(known[path], keep(path)))
        model(images, training=False)
    if missing := sorted(wanted - found.keys()):
        raise ValueError(f"{missing[0]} does not run when {model.name} is called.")
    if several := [p for p, x in found.items() if isinstance(x, list | tuple | dict)]:
        raise ValueError(f"{several[0]} gives several outputs, not one.")
    return {path: keras.ops.convert_to_numpy(x) for path, x in found.items()}


@contextlib.contextmanager
def observed(
    layer: keras.layers.Layer, function: Callable[[Tensor, Any], None]
) -> Iterator[None]:
    """Within it, a function gets the inputs and the outputs of each call of a layer.

    Nothing is added to the graph of a model that the layer is in.
    """
    name = "quantized_call" if layer.quantization_mode else "call"
    call = getattr(layer, name)

    def observing(inputs, *args, **kwargs):
        outputs = call(inputs, *args, **kwargs)
        function(inputs, outputs)
        return outputs

    # Not as Keras sets attributes, which would track it.
    object.__setattr__(layer, name, observing)
    try:
        yield
    finally:
        object.__delattr__(layer, name)
