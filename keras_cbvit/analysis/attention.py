"""Statistics of attention maps (the paper's Figures 3 and 5)."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_cbvit.analysis.outputs import observe
from keras_cbvit.annotations import Tensor
from keras_cbvit.arguments import format_value, whole_number
from keras_cbvit.internals import layers_within
from keras_cbvit.layers import EncoderBlock, PatchEmbedding


def attention_maps(model: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    """Returns the attention maps of every encoder block.

    All maps are in memory at once; for more than a few images, use
    `attention_statistics`. The model is not changed.

    Args:
        model: a `VisionTransformer` or another model with one input and
            `EncoderBlock`s, possibly nested.
        images: array of shape `(batch, height, width, channels)`, as inputs of the
            model.

    Returns:
        A list with one float32 NumPy array of shape `(batch, heads, tokens, tokens)`
        per block, in execution order, whose last axis sums to 1.

    Raises:
        ValueError: if the model has no encoder blocks, or the shape of the images does
            not match its input.
    """
    images = np.asarray(images)
    observer = _AttentionObserver(model, lambda maps: maps)
    _check_images(model, images)
    return observer.predict(images, verbose=0)


def attention_entropy(maps: Tensor) -> Tensor:
    """Returns the entropy of attention, averaged over the query tokens.

    `-(1/N) Σ_i Σ_j a_ij ln a_ij`, as in the paper's Figures 3 and 5a.

    Args:
        maps: array or tensor of shape `(batch, heads, tokens, tokens)`, whose last axis
            sums to 1. Zeros contribute 0.

    Returns:
        A float32 tensor of shape `(batch, heads)` in nats, from 0, if every token
        attends to a single token, to `ln(tokens)` for uniform attention.
    """
    maps = ops.convert_to_tensor(maps, "float32")
    logarithms = ops.log(ops.where(maps > 0, maps, 1.0))
    return -ops.mean(ops.sum(maps * logarithms, axis=-1), axis=-1)


def relative_distance(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Returns the distance between tokens, weighted by attention (Figure 5b).

    This is the project's reading of the paper's formula::

        (1/N) Σ_i Σ_{j≠i} a_ij ‖p_i - p_j‖₂

    over the N patch tokens. Attention to the token itself and to prefix tokens
    contributes 0, and the rest is not rescaled. The positions p are in [0, 1]²: the
    first row is at 0 and the last at 1, likewise the columns; a single row or column is
    at 0.

    Args:
        maps: array or tensor of shape `(batch, heads, tokens, tokens)`, whose last axis
            sums to 1.
        grid: `(rows, columns)` of the patch tokens, which come last, row by row; prefix
            tokens, such as the class token, are left out.

    Returns:
        A float32 tensor of shape `(batch, heads)`, from 0 to √2, in units of the
        image's sides.

    Raises:
        ValueError: if the grid has more tokens than the maps.
    """
    rows, columns = grid
    maps = ops.convert_to_tensor(maps, "float32")
    prefix = maps.shape[-1] - rows * columns
    if prefix < 0:
        raise ValueError(
            f"grid={tuple(grid)} has {rows * columns} patch tokens, but the maps have "
            f"only {maps.shape[-1]} tokens."
        )
    sides = np.linspace(0, 1, rows), np.linspace(0, 1, columns)
    positions = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 2)
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1)
    weighted = maps[..., prefix:, prefix:] * ops.convert_to_tensor(distances, "float32")
    return ops.mean(ops.sum(weighted, axis=-1), axis=-1)


def softmax_jacobian_norm(maps: Tensor) -> Tensor:
    """Returns the nuclear norm of the softmax's Jacobian (section 2.1).

    The Jacobian of a = softmax(z) is `diag(a) - a aᵀ`. It is symmetric and positive
    semidefinite, so its nuclear norm is its trace, `1 - Σ_j a_j²`. The paper states
    that "the gradient is steepest around uniform attention"; this norm, the project's
    measure of it, has its only maximum at the uniform a.

    Args:
        maps: array or tensor whose last axis sums to 1, for instance of shape
            `(batch, heads, tokens, tokens)`.

    Returns:
        A float32 tensor with the maps' shape except for the last axis, from 0, for
        attention to a single token, to `1 - 1/tokens`.
    """
    maps = ops.convert_to_tensor(maps, "float32")
    return 1.0 - ops.sum(maps * maps, axis=-1)


def attention_statistics(
    model: keras.Model, images: Iterable[np.ndarray], batch_size: int = 16
) -> dict[str, np.ndarray]:
    """Computes entropy, relative distance and Jacobian norm of each block's attention.

    The maps are reduced batch by batch, so the number of images is not limited.

    Args:
        model: a `VisionTransformer` or another model with one input, a
            `PatchEmbedding` and `EncoderBlock`s, possibly nested.
        images: an array or an iterable of images, each of shape `(height, width,
            channels)`, as inputs of the model.
        batch_size: number of images per batch.

    Returns:
        A dict of float64 NumPy arrays of shape `(blocks,)`, averaged over images, heads
        and tokens: `"entropy"` (see `attention_entropy`), `"distance"` (see
        `relative_distance`) and `"jacobian_norm"` (see `softmax_jacobian_norm`).

    Raises:
        ValueError: if the model has no encoder blocks, `images` is empty, or the shape
            of the images does not match the model's input.
    """
    batch_size = whole_number("batch_size", batch_size)
    grid = token_grid(model)

    def measure(maps):
        by_head = (
            attention_entropy(maps),
            relative_distance(maps, grid),
            ops.mean(softmax_jacobian_norm(maps), axis=-1),
        )
        return ops.stack([ops.mean(x, axis=-1) for x in by_head], axis=-1)

    observer = _AttentionObserver(model, measure)
    images = iter(images)
    total, count = np.zeros(()), 0
    while batch := list(itertools.islice(images, batch_size)):
        batch = np.stack(batch)
        _check_images(model, batch)
        found = np.array(observer.predict_on_batch(batch))
        total = total + found.sum(axis=1, dtype="float64")
        count += len(batch)
    if not count:
        raise ValueError("images is empty; pass at least one image.")
    names = ("entropy", "distance", "jacobian_norm")
    return dict(zip(names, total.T / count, strict=True))


def token_grid(model: keras.Model) -> tuple[int, int]:
    """Returns the `(rows, columns)` of patches of a model."""
    for layer in _layers(model, PatchEmbedding):
        if layer.built:
            _, height, width, _ = layer.get_build_config()["input_shape"]
            if None not in (height, width):
                return height // layer.patch_size, width // layer.patch_size
    raise ValueError(
        f"{model.name} has no PatchEmbedding that is built for images of one size, so "
        "the positions of its tokens are unknown."
    )


def encoder_blocks(model: keras.Model) -> list[EncoderBlock]:
    """Returns the encoder blocks of a model in order; raises a ValueError if none."""
    blocks = _layers(model, EncoderBlock)
    if not blocks:
        raise ValueError(
            f"{model.name} has no EncoderBlock; pass a model with encoder blocks of "
            "this package."
        )
    return blocks


def _layers(model, kind):
    """Returns the layers of a class in a model, nested ones included."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"model={format_value(model)} must be a keras.Model.")
    layers = layers_within(model)
    return [layer for layer in dict.fromkeys(layers) if isinstance(layer, kind)]


class _AttentionObserver(keras.Model):
    """Computes a function of the attention maps of each encoder block of a model.

    The blocks are observed while the model runs, without changes to its graph, so they
    may be nested in other models.
    """

    def __init__(self, model: keras.Model, measure: Callable[[Any], Any]):
        super().__init__(name="attention_observer", dtype="float32")
        encoder_blocks(model)  # raises if there are none
        self.model = model
        self.measure = measure
        self.built = True

    def call(self, images: Tensor) -> list[Tensor]:
        measured = []

        def record(block, inputs, _):
            _, maps = block.attention(
                block.norm1(inputs), return_attention_scores=True, training=False
            )
            measured.append(self.measure(ops.cast(maps, "float32")))

        with contextlib.ExitStack() as stack:
            for block in encoder_blocks(self.model):
                function = functools.partial(record, block)
                stack.enter_context(observe(block, function))
            self.model(images, training=False)
        return measured


def _check_images(model, images):
    shape = getattr(model, "input_shape", None)
    if shape is None:  # not a functional model
        return
    if not isinstance(shape, tuple):
        raise ValueError(f"{model.name} has several inputs; pass a model with one.")
    sizes = list(itertools.zip_longest(images.shape[1:], shape[1:], fillvalue=-1))
    if any(wanted not in (None, found) for found, wanted in sizes):
        raise ValueError(
            f"images of shape {images.shape[1:]} do not match {model.name}, which "
            f"takes {shape[1:]}."
        )
