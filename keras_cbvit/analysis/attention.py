"""How the tokens of a model attend to each other (the paper's Figures 3 and 5)."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_cbvit.analysis.outputs import observed
from keras_cbvit.annotations import Tensor
from keras_cbvit.arguments import shown, whole_number
from keras_cbvit.internals import layers_within
from keras_cbvit.layers import EncoderBlock, PatchEmbedding


def attention_maps(model: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    """The attention maps of every encoder block.

    The model stays as it is. All maps are in memory at once: for more than a few
    images, see `attention_statistics`.

    Args:
        model: a `VisionTransformer` or another model of one input with `EncoderBlock`s
            in it, or in a model in it.
        images: array of shape `(batch, height, width, channels)`, as the model takes
            them.

    Returns:
        A list with a float32 NumPy array of shape `(batch, heads, tokens, tokens)` for
        each block, in the order they run in, whose last axis adds up to 1.

    Raises:
        ValueError: if the model has no encoder blocks, or the images are not of its
            input's shape.
    """
    images = np.asarray(images)
    measuring = _Measuring(model, lambda maps: maps)
    _check_images(model, images)
    return measuring.predict(images, verbose=0)


def attention_entropy(maps: Tensor) -> Tensor:
    """Entropy of attention, averaged over the tokens that attend.

    `-(1/N) Σ_i Σ_j a_ij ln a_ij`, as in the paper's Figures 3 and 5a.

    Args:
        maps: array or tensor of shape `(batch, heads, tokens, tokens)`, whose last axis
            adds up to 1. An attention of 0 counts 0.

    Returns:
        A float32 tensor of shape `(batch, heads)` in nats, from 0, where every token
        attends to one alone, to `ln(tokens)`, where all attend to all alike.
    """
    maps = ops.convert_to_tensor(maps, "float32")
    logarithms = ops.log(ops.where(maps > 0, maps, 1.0))
    return -ops.mean(ops.sum(maps * logarithms, axis=-1), axis=-1)


def relative_distance(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Distance between tokens, weighted by their attention (Figure 5b).

    This is the project's reading of the paper's formula::

        (1/N) Σ_i Σ_{j≠i} a_ij ‖p_i - p_j‖₂

    over the N spatial tokens, by their attention to each other as it is: what they give
    to themselves and to the class token counts 0, and the rest is not rescaled. The
    positions p are in [0, 1]²: the first row of the grid is at 0 and the last at 1, and
    so are the columns, however many there are. A single row, or column, is at 0.

    Args:
        maps: array or tensor of shape `(batch, heads, tokens, tokens)`, whose last axis
            adds up to 1.
        grid: `(rows, columns)` of the spatial tokens, which are the last ones, row by
            row; the tokens before them, such as the class token, are left out.

    Returns:
        A float32 tensor of shape `(batch, heads)`, at least 0 and at most √2, in
        sides of the image.

    Raises:
        ValueError: if there are fewer tokens than the grid has.
    """
    rows, columns = grid
    maps = ops.convert_to_tensor(maps, "float32")
    others = maps.shape[-1] - rows * columns
    if others < 0:
        raise ValueError(
            f"grid={tuple(grid)} has {rows * columns} spatial tokens, but the maps "
            f"are of {maps.shape[-1]} tokens."
        )
    sides = np.linspace(0, 1, rows), np.linspace(0, 1, columns)
    positions = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 2)
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1)
    weighted = maps[..., others:, others:] * ops.convert_to_tensor(distances, "float32")
    return ops.mean(ops.sum(weighted, axis=-1), axis=-1)


def softmax_jacobian_norm(maps: Tensor) -> Tensor:
    """Nuclear norm of the softmax's Jacobian at each token's attention (section 2.1).

    The Jacobian of a = softmax(z) is `diag(a) - a aᵀ`. It is symmetric and has no
    negative eigenvalue, so its nuclear norm is its trace, `1 - Σ_j a_j²`. The paper
    says that "the gradient is steepest around uniform attention"; this norm, the
    project's measure of it, is largest at the uniform a and nowhere else.

    Args:
        maps: array or tensor whose last axis adds up to 1, for instance of shape
            `(batch, heads, tokens, tokens)`.

    Returns:
        A float32 tensor of the maps' shape without the last axis, from 0, for attention
        to one token alone, to `1 - 1/tokens`.
    """
    maps = ops.convert_to_tensor(maps, "float32")
    return 1.0 - ops.sum(maps * maps, axis=-1)


def attention_statistics(
    model: keras.Model, images: Iterable[np.ndarray], batch_size: int = 16
) -> dict[str, np.ndarray]:
    """Entropy, relative distance and Jacobian norm of every block's attention.

    The maps are reduced batch by batch, so any number of images can be measured.

    Args:
        model: a `VisionTransformer` or another model of one input with a
            `PatchEmbedding` and `EncoderBlock`s in it, or in a model in it.
        images: an array of images, or an iterable that gives one at a time, each of
            shape `(height, width, channels)`, as the model takes them.
        batch_size: images that are measured at once.

    Returns:
        A dict of float64 NumPy arrays of shape `(blocks,)`, averaged over the images,
        heads and tokens: `"entropy"`, see `attention_entropy`, `"distance"`, see
        `relative_distance`, and `"jacobian_norm"`, see `softmax_jacobian_norm`.

    Raises:
        ValueError: if the model has no encoder blocks, or there are no images, or they
            are not of its input's shape.
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

    measuring = _Measuring(model, measure)
    images = iter(images)
    total, count = np.zeros(()), 0
    while batch := list(itertools.islice(images, batch_size)):
        batch = np.stack(batch)
        _check_images(model, batch)
        found = np.array(measuring.predict_on_batch(batch))
        total = total + found.sum(axis=1, dtype="float64")
        count += len(batch)
    if not count:
        raise ValueError("images is empty; there is no attention to measure.")
    names = ("entropy", "distance", "jacobian_norm")
    return dict(zip(names, total.T / count, strict=True))


def token_grid(model: keras.Model) -> tuple[int, int]:
    """The `(rows, columns)` of patches that a model cuts its images into."""
    for layer in _layers(model, PatchEmbedding):
        if layer.built:
            _, height, width, _ = layer.get_build_config()["input_shape"]
            if None not in (height, width):
                return height // layer.patch_size, width // layer.patch_size
    raise ValueError(
        f"{model.name} has no PatchEmbedding among its layers that is built for images "
        "of one size, so the places of its tokens are unknown."
    )


def encoder_blocks(model: keras.Model) -> list[EncoderBlock]:
    """The encoder blocks of a model, in order; a ValueError if there are none."""
    blocks = _layers(model, EncoderBlock)
    if not blocks:
        raise ValueError(
            f"{model.name} has no EncoderBlock among its layers, so it has no "
            "attention to look at; give a model with those of this package."
        )
    return blocks


def _layers(model, kind):
    """The layers of a kind in a model, and in the models and layers in it."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"model={shown(model)} must be a keras.Model.")
    layers = layers_within(model)
    return [layer for layer in dict.fromkeys(layers) if isinstance(layer, kind)]


class _Measuring(keras.Model):
    """A function of the attention maps of each encoder block of a model.

    The blocks are observed while the model runs, so that nothing is added to its graph,
    and it may be in any other model.
    """

    def __init__(self, model: keras.Model, measure: Callable[[Any], Any]):
        super().__init__(name="measuring", dtype="float32")
        encoder_blocks(model)  # there must be some
        self.model = model
        self.measure = measure
        self.built = True  # as the model is

    def call(self, images: Tensor) -> list[Tensor]:
        measured = []

        def observe(block, inputs, _):
            _, maps = block.attention(
                block.norm1(inputs), return_attention_scores=True, training=False
            )
            measured.append(self.measure(ops.cast(maps, "float32")))

        with contextlib.ExitStack() as stack:
            for block in encoder_blocks(self.model):
                watch = functools.partial(observe, block)
                stack.enter_context(observed(block, watch))
            self.model(images, training=False)
        return measured


def _check_images(model, images):
    shape = getattr(model, "input_shape", None)
    if shape is None:  # of a model that is not functional
        return
    if not isinstance(shape, tuple):
        raise ValueError(f"{model.name} has several inputs; give a model of one.")
    sizes = list(itertools.zip_longest(images.shape[1:], shape[1:], fillvalue=-1))
    if any(wanted not in (None, found) for found, wanted in sizes):
        raise ValueError(
            f"images of shape {images.shape[1:]} do not fit {model.name}, which takes "
            f"{shape[1:]}."
        )
