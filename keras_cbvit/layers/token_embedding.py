"""Prefix tokens and position embedding."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_cbvit import backend
from keras_cbvit.annotations import Shape, Tensor
from keras_cbvit.arguments import (
    check_memory,
    check_shape,
    fixed_channels,
    flag,
    items,
    refuse,
    whole_number,
)
from keras_cbvit.layers.bicubic import bicubic_matrix
from keras_cbvit.layers.grid import check_patches
from keras_cbvit.layers.initializers import dense_kernel


@keras.saving.register_keras_serializable(package="keras_cbvit")
class TokenEmbedding(keras.layers.Layer):
    """Prepends the prefix tokens and adds a position embedding.

    The prefix tokens are the class token, DeiT's distillation token and register
    tokens, in this order. All are learned.

    The position embedding is learned on one grid of patches and resampled for images of
    another size: bicubic with antialiasing, with the same result as loading weights for
    another size. Computed as two small matrix products, since the bicubic resizing of
    the backends differs.

    Args:
        patch_size: side of a patch in pixels.
        grid: `(rows, columns)` of patches of the learned position embedding.
        num_register_tokens: number of register tokens, as in "Vision Transformers Need
            Registers" (ICLR 2024).
        prefix_position_embedding: whether the prefix tokens get position embeddings as
            well as the patch tokens.
        class_token: whether to prepend a class token.
        distillation_token: whether to add a distillation token, as in DeiT (ICML
            2021).
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: patch tokens of shape `(batch, tokens, channels)`.
        images: the images, of shape `(batch, height, width, channels)`; only their size
            is used.

    Returns:
        A tensor of shape `(batch, prefix + tokens, channels)` in the layer's compute
        dtype.

    Raises:
        ValueError: if an argument is invalid, or the number of tokens does not match
            the images.
    """

    def __init__(
        self,
        patch_size: int,
        grid: tuple[int, int],
        num_register_tokens: int = 0,
        prefix_position_embedding: bool = True,
        class_token: bool = True,
        distillation_token: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.patch_size = whole_number("patch_size", patch_size)
        if (sides := items(grid, most=2)) is None or len(sides) != 2:
            refuse("grid", grid, "must be (rows, columns), for instance (14, 14).")
        self.grid = tuple(whole_number("grid", side) for side in sides)
        self.num_register_tokens = whole_number(
            "num_register_tokens", num_register_tokens, least=0
        )
        self.prefix_position_embedding = flag(
            "prefix_position_embedding", prefix_position_embedding
        )
        self.has_class_token = flag("class_token", class_token)
        self.has_distillation_token = flag("distillation_token", distillation_token)
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, inputs_shape: Shape, images_shape: Shape) -> None:
        channels = fixed_channels(self, inputs_shape)
        rows, columns = self.grid
        weights = rows * columns * channels
        check_memory(f"grid={self.grid}", weights, self.variable_dtype)

        def add(name, tokens):
            shape = (1, tokens, channels)
            return self.add_weight(name=name, shape=shape, initializer=dense_kernel())

        if self.has_class_token:
            self.class_token = add("class_token", 1)
        if self.has_distillation_token:
            self.distillation_token = add("distillation_token", 1)
        if self.num_register_tokens:
            self.register_tokens = add("register_tokens", self.num_register_tokens)
        self.position_embedding = add(
            "position_embedding", self._num_positioned + rows * columns
        )

    @property
    def num_prefix_tokens(self) -> int:
        """Number of tokens before the patch tokens."""
        singles = self.has_class_token + self.has_distillation_token
        return singles + self.num_register_tokens

    @property
    def _prefix(self):
        """The prefix tokens, in order."""
        prefix = []
        if self.has_class_token:
            prefix.append(self.class_token)
        if self.has_distillation_token:
            prefix.append(self.distillation_token)
        if self.num_register_tokens:
            prefix.append(self.register_tokens)
        return prefix

    @property
    def _num_positioned(self):
        """Number of prefix tokens with position embeddings."""
        return self.num_prefix_tokens if self.prefix_position_embedding else 0

    def call(self, inputs: Tensor, images: Tensor) -> Tensor:
        check_patches(self, self.patch_size, images.shape, inputs.shape[1])
        position = self.position_embedding
        own_size = tuple(side * self.patch_size for side in self.grid)
        sides = images.shape[1:3]
        # Comparing a symbolic side would make it constant on torch and JAX.
        known = all(isinstance(side, int) for side in sides)
        if not known or tuple(sides) != own_size:
            position = self._resample(images)
        position = ops.cast(position, inputs.dtype)
        batch, channels = ops.shape(inputs)[0], inputs.shape[-1]
        prefix = [
            ops.broadcast_to(
                ops.cast(tokens, inputs.dtype), (batch, tokens.shape[1], channels)
            )
            for tokens in self._prefix
        ]
        if self.prefix_position_embedding:
            return ops.concatenate([*prefix, inputs], axis=1) + position
        return ops.concatenate([*prefix, inputs + position], axis=1)

    def _resample(self, images):
        dtype = backend.wide_dtype(self.compute_dtype)
        embedding = ops.cast(self.position_embedding, dtype)
        channels, positioned = embedding.shape[-1], self._num_positioned
        rows, columns = (
            self._matrix(old, side // self.patch_size, dtype)
            for old, side in zip(self.grid, ops.shape(images)[1:3], strict=True)
        )
        grid = ops.reshape(embedding[0, positioned:], (*self.grid, channels))
        grid = ops.einsum("Rr,rcd->Rcd", rows, grid)
        grid = ops.einsum("Cc,Rcd->RCd", columns, grid)
        grid = ops.reshape(grid, (1, -1, channels))
        return ops.concatenate([embedding[:, :positioned], grid], axis=1)

    @staticmethod
    def _matrix(old, new, dtype):
        if isinstance(new, int):
            return ops.convert_to_tensor(bicubic_matrix(old, new, np), dtype)
        return bicubic_matrix(old, new, ops, dtype)

    def compute_output_shape(self, inputs_shape: Shape, images_shape: Shape) -> Shape:
        check_shape(self, inputs_shape)
        check_patches(self, self.patch_size, images_shape, inputs_shape[1])
        batch, tokens, channels = inputs_shape
        tokens = None if tokens is None else self.num_prefix_tokens + tokens
        return (batch, tokens, channels)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "patch_size": self.patch_size,
            "grid": self.grid,
            "num_register_tokens": self.num_register_tokens,
            "prefix_position_embedding": self.prefix_position_embedding,
            "class_token": self.has_class_token,
            "distillation_token": self.has_distillation_token,
        }


def resample_position_embedding(
    embedding: np.ndarray,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    num_prefix: int = 1,
) -> np.ndarray:
    """Resamples a position embedding to another grid of patches, in float64.

    Bicubic with antialiasing, as in timm. The backends' own resizing differs from each
    other.

    Args:
        embedding: array of shape `(1, num_prefix + rows * columns, channels)`.
        old_grid: `(rows, columns)` of `embedding`.
        new_grid: `(rows, columns)` to resample to.
        num_prefix: number of prefix tokens, whose embeddings are kept.

    Returns:
        A float32 array of shape `(1, num_prefix + new_rows * new_columns, channels)`.
    """
    embedding = np.asarray(embedding, "float64")
    prefix, grid = embedding[:, :num_prefix], embedding[0, num_prefix:]
    grid = grid.reshape(*old_grid, -1)
    rows, columns = (
        bicubic_matrix(old, new) for old, new in zip(old_grid, new_grid, strict=True)
    )
    grid = np.einsum("Rr,Cc,rcd->RCd", rows, columns, grid, optimize=True)
    grid = grid.reshape(1, -1, grid.shape[-1])
    return np.concatenate([prefix, grid], axis=1).astype("float32")
