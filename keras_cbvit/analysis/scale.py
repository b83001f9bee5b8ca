"""What CB_S has learned: its Λ (the paper's Figure 6)."""

import numpy as np

from keras_cbvit.layers import ContextBroadcast


def channel_scales(model):
    """The Λ of every layer of a CB_S model.

    Args:
        model: a `VisionTransformer` with `broadcast="cbs"`, or any model with
            `ContextBroadcast(scale=True)` in it.

    Returns:
        A dict of float32 NumPy arrays of shape `(channels,)`, by the layer's path and
        in the order of the layers, for instance `"block_0/mlp/context_broadcast"`.

    Raises:
        ValueError: if the model has no Λ.
    """
    scales = {
        layer.path: layer.channel_scale.numpy().astype("float32")
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, ContextBroadcast) and layer.scale
    }
    if not scales:
        raise ValueError(
            f"{model.name} has no Λ: only CB_S models, of broadcast='cbs', have one in "
            "each layer."
        )
    return scales


def scale_statistics(model):
    """How alike the channels of each Λ are, and how large it is on average.

    Args:
        model: as of `channel_scales`.

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
