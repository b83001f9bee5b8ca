"""How the tokens of a model attend to each other (the paper's Figures 3 and 5)."""

import itertools

import keras
import numpy as np
from keras import ops

from keras_cbvit.layers import EncoderBlock, PatchEmbedding


def attention_maps(model, images):
    """The attention maps of every encoder block.

    The model stays as it is. All maps are in memory at once: for more than a few
    images, see `attention_statistics`.

    Args:
        model: a `VisionTransformer` or another functional model of `EncoderBlock`s.
        images: array of shape `(batch, height, width, channels)`, as the model takes
            them.

    Returns:
        A list with a float32 NumPy array of shape `(batch, heads, tokens, tokens)` for
        each block, whose last axis adds up to 1.

    Raises:
        ValueError: if the model has no encoder blocks, or the images are not of its
            input's shape.
    """
    images = np.asarray(images)
    _check_images(model, images)
    measuring = _measuring(model, lambda maps: maps)
    return _by_block(model, measuring.predict(images, verbose=0))


def attention_entropy(maps):
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


def relative_distance(maps, grid):
    """Distance between tokens, weighted by their attention (Figure 5b).

    The paper's formula is lost from the text we have; this is the project's reading::

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


def softmax_jacobian_norm(maps):
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


def attention_statistics(model, images, batch_size=16):
    """Entropy, relative distance and Jacobian norm of every block's attention.

    The maps are reduced batch by batch, so any number of images can be measured.

    Args:
        model: a `VisionTransformer` or another functional model of a `PatchEmbedding`
            and `EncoderBlock`s.
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
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    grid = token_grid(model)

    def measure(maps):
        by_head = (
            attention_entropy(maps),
            relative_distance(maps, grid),
            ops.mean(softmax_jacobian_norm(maps), axis=-1),
        )
        return ops.stack([ops.mean(x, axis=-1) for x in by_head], axis=-1)

    measuring = _measuring(model, measure)
    images = iter(images)
    total, count = 0.0, 0
    while batch := list(itertools.islice(images, batch_size)):
        batch = np.stack(batch)
        _check_images(model, batch)
        found = np.array(_by_block(model, measuring.predict_on_batch(batch)))
        total = total + found.sum(axis=1, dtype="float64")
        count += len(batch)
    if not count:
        raise ValueError("images is empty; there is no attention to measure.")
    names = ("entropy", "distance", "jacobian_norm")
    return dict(zip(names, total.T / count, strict=True))


def token_grid(model):
    """The `(rows, columns)` of patches that a model cuts its images into."""
    for layer in model.layers:
        if isinstance(layer, PatchEmbedding):
            _, height, width, _ = layer.input.shape
            return height // layer.patch_size, width // layer.patch_size
    raise ValueError(
        f"{model.name} has no PatchEmbedding among its layers, so the places of its "
        "tokens are unknown."
    )


def encoder_blocks(model):
    """The encoder blocks of a model, in order; a ValueError if there are none."""
    blocks = [layer for layer in model.layers if isinstance(layer, EncoderBlock)]
    if not blocks:
        raise ValueError(
            f"{model.name} has no EncoderBlock among its layers, so it has no "
            "attention to look at; give a model of this package, not one around it."
        )
    return blocks


class _Measure(keras.layers.Layer):
    """A function of the attention maps of an encoder block, given its input.

    As a layer of its own it adds nothing to the graph that the block is in.
    """

    def __init__(self, block, measure):
        # The block casts its input itself.
        super().__init__(autocast=False, dtype="float32")
        self.block = block
        self.measure = measure

    def call(self, inputs):
        attention, norm = self.block.attention, self.block.norm1
        _, maps = attention(norm(inputs), return_attention_scores=True, training=False)
        return self.measure(ops.cast(maps, "float32"))


def _measuring(model, measure):
    """A model that gives a function of each encoder block's maps, by its name."""
    return keras.Model(
        model.input,
        {
            block.name: _Measure(block, measure)(block.input)
            for block in encoder_blocks(model)
        },
    )


def _by_block(model, measured):
    """What such a model gave, in the order of the blocks; Keras sorts the names."""
    return [measured[block.name] for block in encoder_blocks(model)]


def _check_images(model, images):
    if images.shape[1:] != model.input_shape[1:]:
        raise ValueError(
            f"images of shape {images.shape[1:]} do not fit {model.name}, which takes "
            f"{model.input_shape[1:]}."
        )
