"""Position embeddings for images of another size."""

import numpy as np

from keras_cbvit.layers.bicubic import bicubic_matrix


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
        bicubic_matrix(old, new) for old, new in zip(old_grid, new_grid, strict=True)
    )
    grid = np.einsum("Rr,Cc,rcd->RCd", rows, columns, grid, optimize=True)
    grid = grid.reshape(1, -1, grid.shape[-1])
    return np.concatenate([token, grid], axis=1).astype("float32")
