"""What CB_S has learned: its Λ (the paper's Figure 6)."""

import keras
import numpy as np

from keras_cbvit.internals import layers_within
from keras_cbvit.layers import ContextBroadcast


def scale_layers(model: keras.Model) -> dict[str, ContextBroadcast]:
    """The layers of a CB_S model that have a Λ.

    Args:
        model: a `VisionTransformer` with `broadcast="cbs"`, or any model with
            `ContextBroadcast(scale=True)` in it.

    Returns:
        A dict of `ContextBroadcast` layers by their paths and in their order, for
        instance `"block_0/mlp/context_broadcast"`.

    Raises:
        ValueError: if the model has no Λ.
    """
    layers = {
        layer.path: layer
        for layer in layers_within(model)
        if isinstance(layer, ContextBroadcast) and layer.scale
    }
    if not layers:
        raise ValueError(
            f"{model.name} has no Λ: only CB_S models, of broadcast='cbs', have one in "
            "each layer."
        )
    return layers


def channel_scales(model: keras.Model) -> dict[str, np.ndarray]:
    """The Λ of every layer of a CB_S model.

    Args:
        model: as of `scale_layers`.

    Returns:
        A dict of float32 NumPy arrays of shape `(channels,)`, by the layer's path.

    Raises:
        ValueError: if the model has no Λ.
    """
    return {
        path: layer.channel_scale.numpy().astype("float32")
        for path, layer in scale_layers(model).items()
    }


def scale_statistics(model: keras.Model) -> dict[str, np.ndarray]:
    """How alike the channels of each Λ are, and how large it is on average.

    Args:
        model: as of `scale_layers`.

    Returns:
        A dict of NumPy arrays of shape `(layers,)`, in the order of `channel_scales`:
        `"ratio"`, the 10 % quantile of |λ| over its 90 % quantile, from 0 to 1, and
        `"mean"`, of Λ with its signs. Where Λ is all zero, as at the start of training,
        the ratio is nan.

    Raises:
        ValueError: if the model has no Λ.
    """
    scales = channel_scales(model).values()
    quantiles = [np.quantile(np.abs(scale), [0.1, 0.9]) for scale in scales]
    return {
        "ratio": np.array([low / high if high else np.nan for low, high in quantiles]),
        "mean": np.array([scale.mean(dtype="float64") for scale in scales]),
    }
