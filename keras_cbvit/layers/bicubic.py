"""The matrix that resamples one axis bicubically, in NumPy or in a model's graph."""

from typing import Any

import numpy as np

from keras_cbvit.annotations import DType


def bicubic_matrix(old: int, new: Any, xp: Any = np, dtype: DType = "float64") -> Any:
    """Weights that resample an axis of `old` places to `new`, with antialiasing.

    The places are the middles of equal cells, and those beyond the ends do not count,
    as in timm and Pillow. The backends' own bicubic resizing differs from it and from
    each other.

    Args:
        old: number of places, a Python integer.
        new: the wanted number of places. With `keras.ops` it may be a tensor.
        xp: the module to compute with, `numpy` or `keras.ops`.
        dtype: dtype of the weights.

    Returns:
        A matrix of shape `(new, old)`, whose rows add up to 1. It is exactly the
        identity if `new` is `old`.
    """
    places = xp.arange(new, dtype=dtype)
    # Not of `new`: Keras would make a constant of torch's and JAX's symbolic sizes.
    step = old / (places[-1] + 1)
    stretch = xp.maximum(step, 1.0)  # the antialiasing: when shrinking, a wider filter
    centers = (places + 0.5) * step - 0.5
    weights = _cubic((xp.arange(old, dtype=dtype) - centers[:, None]) / stretch, xp)
    return weights / xp.sum(weights, axis=1, keepdims=True)


def _cubic(x, xp, a=-0.5):
    """Keys's cubic convolution kernel, which is 0 from a distance of 2 on."""
    x = xp.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return xp.where(x < 1, near, xp.where(x < 2, far, xp.zeros_like(x)))
