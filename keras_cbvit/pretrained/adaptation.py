"""Weights of a model as another needs them: for other sizes and channels of images."""

from collections.abc import Sequence

import numpy as np

from keras_cbvit.layers.token_embedding import resample_position_embedding
from keras_cbvit.models.spec import ViTSpec


def resample(
    tokens: Sequence[np.ndarray | None], spec: ViTSpec, grid: tuple[int, int]
) -> Sequence[np.ndarray | None]:
    """The weights of the token embedding of a spec for another grid of patches."""
    *others, position = tokens
    prefix = spec.num_prefix_tokens if spec.prefix_position_embedding else 0
    shape = (1, prefix + spec.grid[0] * spec.grid[1], spec.hidden_dim)
    # Another shape is an error of its own.
    if spec.grid == grid or position is None or np.shape(position) != shape:
        return tokens
    resampled = resample_position_embedding(position, spec.grid, grid, prefix)
    return [*others, resampled]


def adapt_filters(
    projection: Sequence[np.ndarray | None], found: int, wanted: int
) -> Sequence[np.ndarray | None]:
    """The filters of the patches for images of another number of channels.

    As timm adapts those of colored images: summed up for one channel, else repeated and
    scaled, so that images whose channels are alike give about the same tokens.
    """
    kernel, *bias = projection
    if found == wanted or found != 3 or kernel is None:  # which is an error of its own
        return projection
    filters = np.reshape(kernel, (-1, found, np.shape(kernel)[-1]))
    if wanted == 1:
        filters = filters.sum(axis=1, keepdims=True)
    else:
        filters = filters[:, np.arange(wanted) % found] * (found / wanted)
    return [filters.reshape(-1, filters.shape[-1]), *bias]
