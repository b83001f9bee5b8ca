"""Position embeddings for images of another size."""

import numpy as np


def resample_position_embedding(embedding, old_grid, new_grid):
    """Resamples a position embedding to another grid of patches.

    Bicubic with antialiasing, as timm does it, so that a model gives the same
    predictions on every backend: their own resizing differs. The class token's
    embedding, the first, is kept.

    Args:
        embedding: array of shape `(1, 1 + rows * columns, channels)`.
        old_grid: its `(rows, columns)`.
        new_grid: the wanted `(rows, columns)`.

    Returns:
        A float32 array of shape `(1, 1 + new_rows * new_columns, channels)`.
    """
    embedding = np.asarray(embedding, "float64")
    token, grid = embedding[:, :1], embedding[0, 1:]
    grid = grid.reshape(*old_grid, -1)
    rows, columns = (
        _bicubic_matrix(old, new) for old, new in zip(old_grid, new_grid, strict=True)
    )
    grid = np.einsum("Rr,Cc,rcd->RCd", rows, columns, grid, optimize=True)
    grid = grid.reshape(1, -1, grid.shape[-1])
    return np.concatenate([token, grid], axis=1).astype("float32")


def _bicubic_matrix(old, new):
    """Weights of shape `(new, old)` that resample one axis; its rows add up to 1."""
    step = old / new
    stretch = max(step, 1.0)  # the antialiasing: when shrinking, a wider filter
    centers = (np.arange(new) + 0.5) * step - 0.5
    weights = _cubic((np.arange(old) - centers[:, None]) / stretch)
    return weights / weights.sum(axis=1, keepdims=True)


def _cubic(x, a=-0.5):
    """Keys's cubic convolution kernel, which is 0 from a distance of 2 on."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
