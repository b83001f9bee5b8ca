"""Adapts weights to images of another size or number of channels."""

from collections.abc import Sequence

import numpy as np

from keras_cbvit.layers.token_embedding import resample_position_embedding
from keras_cbvit.models.spec import ViTSpec


def resample(
    tokens: Sequence[np.ndarray | None], spec: ViTSpec, grid: tuple[int, int]
) -> Sequence[np.ndarray | None]:
    """Resamples the weights of a token embedding to another grid of patches."""
    *others, position = tokens
    prefix = spec.num_prefix_tokens if spec.prefix_position_embedding else 0
    shape = (1, prefix + spec.grid[0] * spec.grid[1], spec.hidden_dim)
    # A wrong shape is reported later.
    if spec.grid == grid or position is None or np.shape(position) != shape:
        return tokens
    resampled = resample_position_embedding(position, spec.grid, grid, prefix)
    return [*others, resampled]


def adapt_filters(
    projection: Sequence[np.ndarray | None], found: int, wanted: int
) -> Sequence[np.ndarray | None]:
    """Adapts the filters of the patch embedding to another number of channels.

    As in timm for RGB filters: summed for one channel, otherwise repeated and scaled,
    so that images with similar channels give similar tokens.
    """
    kernel, *bias = projection
    if found == wanted or found != 3 or kernel is None:  # reported later
        return projection
    filters = np.reshape(kernel, (-1, found, np.shape(kernel)[-1]))
    if wanted == 1:
        filters = filters.sum(axis=1, keepdims=True)
    else:
        filters = filters[:, np.arange(wanted) % found] * (found / wanted)
    return [filters.reshape(-1, filters.shape[-1]), *bias]
