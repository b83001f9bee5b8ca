"""Bicubic resampling of an axis as a matrix, in NumPy or in a model's graph."""

from typing import Any

import numpy as np

from keras_cbvit.annotations import DType


def bicubic_matrix(old: int, new: Any, xp: Any = np, dtype: DType = "float64") -> Any:
    """Returns weights that resample an axis from `old` to `new`, with antialiasing.

    Positions are the centers of equal cells, and those beyond the ends get no weight,
    as in timm and Pillow. The backends' own bicubic resizing differs from this and from
    each other.

    Args:
        old: number of input positions, a Python integer.
        new: number of output positions. With `keras.ops` it may be a tensor.
        xp: the module to compute with, `numpy` or `keras.ops`.
        dtype: dtype of the weights.

    Returns:
        A matrix of shape `(new, old)`, whose rows sum to 1; exactly the identity if
        `new` equals `old`.
    """
    positions = xp.arange(new, dtype=dtype)
    # Not from `new`: Keras would turn torch's and JAX's symbolic sizes into constants.
    step = old / (positions[-1] + 1)
    stretch = xp.maximum(step, 1.0)  # antialiasing: a wider filter when shrinking
    centers = (positions + 0.5) * step - 0.5
    weights = _cubic((xp.arange(old, dtype=dtype) - centers[:, None]) / stretch, xp)
    return weights / xp.sum(weights, axis=1, keepdims=True)


def _cubic(x, xp, a=-0.5):
    """Keys's cubic convolution kernel, which is 0 at distances of 2 or more."""
    x = xp.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return xp.where(x < 1, near, xp.where(x < 2, far, xp.zeros_like(x)))
