"""The class token and the position embedding, for images of any size."""

import keras
import numpy as np
from keras import ops

from keras_cbvit.layers import fast
from keras_cbvit.layers.arguments import (
    check_memory,
    check_shape,
    fixed_channels,
    items,
    refuse,
    whole_number,
)
from keras_cbvit.layers.bicubic import bicubic_matrix
from keras_cbvit.layers.class_token_and_position import ClassTokenAndPosition
from keras_cbvit.layers.grid import check_patches


@keras.saving.register_keras_serializable(package="keras_cbvit")
class ClassTokenAndResampledPosition(ClassTokenAndPosition):
    """`ClassTokenAndPosition` whose position embedding fits images of any size.

    The embedding is learned on one grid of patches and resampled to that of the images
    at hand: bicubic with antialiasing, as when weights are loaded for another size, so
    that both give the same. It is written as two small matrix products, since the
    bicubic resizing of the backends differs.

    Args:
        patch_size: side of a patch in pixels.
        grid: `(rows, columns)` of the patches that the position embedding is of.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tokens of shape `(batch, tokens, channels)`.
        images: the images they are patches of, of shape `(batch, height, width,
            channels)`, of which only the size is used.

    Returns:
        A tensor of shape `(batch, 1 + tokens, channels)` in the layer's compute
        dtype.

    Raises:
        ValueError: on a `patch_size` or `grid` that cannot be, or tokens that are not
            those of the images.
    """

    def __init__(self, patch_size, grid, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = whole_number("patch_size", patch_size)
        if (sides := items(grid, most=2)) is None or len(sides) != 2:
            refuse("grid", grid, "must be (rows, columns), for instance (14, 14).")
        self.grid = tuple(whole_number("grid", side) for side in sides)

    def build(self, inputs_shape, images_shape):
        rows, columns = self.grid
        channels = fixed_channels(self, inputs_shape)
        weights = rows * columns * channels
        check_memory(f"grid={self.grid}", weights, self.variable_dtype)
        super().build((None, rows * columns, channels))
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={2: channels})

    def call(self, inputs, images):
        check_patches(self, self.patch_size, images.shape, inputs.shape[1])
        position_embedding = self.position_embedding
        own_size = tuple(side * self.patch_size for side in self.grid)
        if tuple(images.shape[1:3]) != own_size:
            position_embedding = self._resampled(images)
        return self._add_to(inputs, position_embedding)

    def _resampled(self, images):
        dtype = fast.wide_dtype(self.compute_dtype)
        embedding = ops.cast(self.position_embedding, dtype)
        channels = embedding.shape[-1]
        rows, columns = (
            self._matrix(old, side // self.patch_size, dtype)
            for old, side in zip(self.grid, ops.shape(images)[1:3], strict=True)
        )
        grid = ops.reshape(embedding[0, 1:], (*self.grid, channels))
        grid = ops.einsum("Rr,rcd->Rcd", rows, grid)
        grid = ops.einsum("Cc,Rcd->RCd", columns, grid)
        grid = ops.reshape(grid, (1, -1, channels))
        return ops.concatenate([embedding[:, :1], grid], axis=1)

    @staticmethod
    def _matrix(old, new, dtype):
        if isinstance(new, int):
            return ops.convert_to_tensor(bicubic_matrix(old, new, np), dtype)
        return bicubic_matrix(old, new, ops, dtype)

    def compute_output_shape(self, inputs_shape, images_shape):
        check_shape(self, inputs_shape)
        check_patches(self, self.patch_size, images_shape, inputs_shape[1])
        return super().compute_output_shape(inputs_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "patch_size": self.patch_size,
            "grid": self.grid,
        }
