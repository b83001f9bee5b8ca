"""Statistics of the learned Λ of CB_S (the paper's Figure 6)."""

import keras
import numpy as np

from keras_cbvit.internals import layers_within
from keras_cbvit.layers import ContextBroadcast


def scale_layers(model: keras.Model) -> dict[str, ContextBroadcast]:
    """Returns the layers of a CB_S model that have a Λ.

    Args:
        model: a `VisionTransformer` with `broadcast="cbs"`, or any model with
            `ContextBroadcast(scale=True)` layers.

    Returns:
        A dict of `ContextBroadcast` layers by path, such as
        `"block_0/mlp/context_broadcast"`, in order.

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
            f"{model.name} has no Λ; only CB_S models (broadcast='cbs') have one."
        )
    return layers


def channel_scales(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the Λ of every layer of a CB_S model.

    Args:
        model: as for `scale_layers`.

    Returns:
        A dict of float32 NumPy arrays of shape `(channels,)` by layer path.

    Raises:
        ValueError: if the model has no Λ.
    """
    return {
        path: layer.channel_scale.numpy().astype("float32")
        for path, layer in scale_layers(model).items()
    }


def scale_statistics(model: keras.Model) -> dict[str, np.ndarray]:
    """Computes how uniform each Λ is over the channels, and its mean.

    Args:
        model: as for `scale_layers`.

    Returns:
        A dict of NumPy arrays of shape `(layers,)`, in the order of `channel_scales`:
        `"ratio"`, the 10 % quantile of |λ| divided by the 90 % quantile, from 0 to 1,
        and `"mean"`, the mean of Λ. The ratio is NaN where Λ is all zero, as at the
        start of training.

    Raises:
        ValueError: if the model has no Λ.
    """
    scales = channel_scales(model).values()
    quantiles = [np.quantile(np.abs(scale), [0.1, 0.9]) for scale in scales]
    return {
        "ratio": np.array([low / high if high else np.nan for low, high in quantiles]),
        "mean": np.array([scale.mean(dtype="float64") for scale in scales]),
    }
