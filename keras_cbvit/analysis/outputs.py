"""What layers within a model compute, by their paths."""

import contextlib
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_cbvit.annotations import Tensor
from keras_cbvit.arguments import refuse
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
            does not run or gives several outputs.
    """
    if isinstance(model, ZooModel):
        known = model.layers_by_path()
    else:
        known = {layer.path: layer for layer in layers_within(model) if layer.path}
    patterns = [layers] if isinstance(layers, str) else list(layers)
    wanted = set()
    for pattern in patterns:
        if not (matching := fnmatch.filter(known, pattern)):
            some = ", ".join(list(known)[:8])
            refuse("layers", pattern, f"matches no layer of {model.name}: {some}, …")
        wanted.update(matching)
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
    call = layer.call

    def observing(inputs, *args, **kwargs):
        outputs = call(inputs, *args, **kwargs)
        function(inputs, outputs)
        return outputs

    # Not as Keras sets attributes, which would track it.
    object.__setattr__(layer, "call", observing)
    try:
        yield
    finally:
        object.__delattr__(layer, "call")
