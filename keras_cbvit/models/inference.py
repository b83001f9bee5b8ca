"""Segmentation of images of any size."""

import math

import keras
import numpy as np

from keras_cbvit.arguments import format_value, two_whole_numbers, whole_number

LONGEST = 20_000  # pixels along a side


def predict_whole(
    model: keras.Model, images: np.ndarray, divisor: int | None = None
) -> np.ndarray:
    """Segments whole images of any size.

    Pads images to multiples of `divisor`, repeating the last row and column, and crops
    the predictions.

    Args:
        model: a model from images to maps of the same size, such as a
            `SegmentationModel`.
        images: array of shape `(batch, height, width, channels)`.
        divisor: the sides of the model's inputs must be multiples of it. Defaults to
            the patch size of the model's layers, or 16 if they have none.

    Returns:
        A NumPy array of shape `(batch, height, width, classes)`.

    Raises:
        ValueError: if `images` has another shape, or `divisor` is not a positive whole
            number.
    """
    _check_images(images)
    if divisor is None:
        divisor = patch_size_of(model) or 16
    divisor = whole_number("divisor", divisor, most=LONGEST)
    height, width = images.shape[1:3]
    size = (height + -height % divisor, width + -width % divisor)
    return model.predict_on_batch(_pad(images, size))[:, :height, :width]


def predict_sliding(
    model: keras.Model,
    images: np.ndarray,
    window: tuple[int, int] = (512, 512),
    stride: tuple[int, int] = (341, 341),
) -> np.ndarray:
    """Segments images in sliding windows and averages predictions where they overlap.

    Like mmsegmentation's `slide_inference`: windows start every `stride` pixels; the
    last ones end at the lower and right edges. All windows have the same size, so the
    model is compiled once for images of all sizes. Images smaller than the window are
    padded by repeating their last row and column, and their predictions are cropped.

    Args:
        model: a model from images to maps of the same size, such as a
            `SegmentationModel`.
        images: array of shape `(batch, height, width, channels)`.
        window: `(height, width)` of the windows, multiples of the model's patch size.
        stride: `(rows, columns)` between windows, at most `window`.

    Returns:
        A NumPy array of shape `(batch, height, width, classes)`: the mean of the
        model's predictions, logits or probabilities.

    Raises:
        ValueError: if `images` has another shape, `stride` is not between 1 and
            `window`, or the patch size does not divide `window`.
    """
    _check_images(images)
    window = two_whole_numbers("window", window, most=LONGEST)
    stride = two_whole_numbers("stride", stride, -LONGEST, LONGEST)
    if any(not 0 < step <= side for side, step in zip(window, stride, strict=True)):
        raise ValueError(
            f"stride={stride} must be at least 1 and at most window={window}."
        )
    patch_size = patch_size_of(model) or 1
    valid_window = tuple(side + -side % patch_size for side in window)
    if valid_window != window:
        raise ValueError(
            f"window={window} must be multiples of the model's patch_size="
            f"{patch_size}, for instance {valid_window}."
        )
    height, width = images.shape[1:3]
    images = _pad(images, tuple(map(max, zip((height, width), window, strict=True))))
    total, count = None, np.zeros((1, *images.shape[1:3], 1), "float32")
    rows, columns = (
        _starts(*sizes) for sizes in zip(images.shape[1:3], window, stride, strict=True)
    )
    for top in rows:
        for left in columns:
            part = np.s_[:, top : top + window[0], left : left + window[1]]
            predictions = model.predict_on_batch(images[part])
            if total is None:
                classes = predictions.shape[-1]
                total = np.zeros((*images.shape[:3], classes), predictions.dtype)
            total[part] += predictions
            count[part] += 1
    return (total / count)[:, :height, :width]


def _check_images(images):
    shape = getattr(images, "shape", None)
    if shape is None:
        raise ValueError(f"images must be an array, not {format_value(images)}.")
    if len(shape) != 4 or 0 in shape:
        raise ValueError(
            f"images must be of shape (batch, height, width, channels), not "
            f"{format_value(tuple(shape))}; images[None] makes a batch of one image."
        )


def patch_size_of(model: keras.Model) -> int | None:
    """Returns the patch size of a model's layers; `None` if no layer has one.

    If several differ, their least common multiple.
    """
    sizes = [getattr(layer, "patch_size", None) for layer in model.layers]
    sizes = [size for size in sizes if isinstance(size, int)]
    return math.lcm(*sizes) if sizes else None


def _starts(size, window, stride):
    """Returns the starts of windows along an axis; the last window ends at `size`."""
    return [*range(0, size - window, stride), size - window]


def _pad(images, size):
    pads = [(0, new - old) for old, new in zip(images.shape[1:3], size, strict=True)]
    return np.pad(images, [(0, 0), *pads, (0, 0)], mode="edge")
