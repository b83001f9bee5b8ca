"""Predictions of a segmentation model for images of any size."""

import math

import keras
import numpy as np

from keras_cbvit.arguments import shown, two_whole_numbers, whole_number

LONGEST = 20_000  # pixels along a side; more are not for one call of a model


def predict_whole(
    model: keras.Model, images: np.ndarray, divisor: int | None = None
) -> np.ndarray:
    """Predicts whole images at once, of any size.

    Images whose sides are no multiples of `divisor` get their last row and column
    repeated below and to the right; predictions there are cut off.

    Args:
        model: a model from images to maps of their size, such as a
            `SegmentationModel`.
        images: array of shape `(batch, height, width, channels)`.
        divisor: what the sides of the model's images must be multiples of; `None` for
            the patch size of the model's layers, or 16 if they have none.

    Returns:
        A NumPy array of shape `(batch, height, width, classes)`.

    Raises:
        ValueError: if `images` are of another shape, or `divisor` is no whole number
            of at least 1.
    """
    _check_images(images)
    if divisor is None:
        divisor = patch_size_of(model) or 16
    divisor = whole_number("divisor", divisor, most=LONGEST)
    height, width = images.shape[1:3]
    size = (height + -height % divisor, width + -width % divisor)
    return model.predict_on_batch(_padded(images, size))[:, :height, :width]


def predict_sliding(
    model: keras.Model,
    images: np.ndarray,
    window: tuple[int, int] = (512, 512),
    stride: tuple[int, int] = (341, 341),
) -> np.ndarray:
    """Predicts windows of images and averages where they overlap.

    As mmsegmentation's `slide_inference`: windows start every `stride` pixels, the
    last ones at the lower and right edges. All are of one size, so that the model is
    compiled once for images of many sizes. Images that are smaller than the window
    get their last row and column repeated; predictions there are cut off.

    Args:
        model: a model from images to maps of their size, such as a
            `SegmentationModel`.
        images: array of shape `(batch, height, width, channels)`.
        window: `(height, width)` of the windows, multiples of the model's patch size.
        stride: `(rows, columns)` from one window to the next, at most the window's.

    Returns:
        A NumPy array of shape `(batch, height, width, classes)`: the mean of what the
        model predicts, logits or probabilities.

    Raises:
        ValueError: if `images` are of another shape, the stride would leave pixels out
            or is not positive, or patches do not divide the window.
    """
    _check_images(images)
    window = two_whole_numbers("window", window, most=LONGEST)
    stride = two_whole_numbers("stride", stride, -LONGEST, LONGEST)
    if any(not 0 < step <= side for side, step in zip(window, stride, strict=True)):
        raise ValueError(
            f"stride={stride} must be at least 1 and at most window={window}."
        )
    patch_size = patch_size_of(model) or 1
    fitting = tuple(side + -side % patch_size for side in window)
    if fitting != window:
        raise ValueError(
            f"window={window} must be multiples of the model's patch_size="
            f"{patch_size}, for instance {fitting}."
        )
    height, width = images.shape[1:3]
    images = _padded(images, tuple(map(max, zip((height, width), window, strict=True))))
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
        raise ValueError(f"images must be an array, not {shown(images)}.")
    if len(shape) != 4 or 0 in shape:
        raise ValueError(
            f"images are of shape {shown(tuple(shape))}, but must be of (batch, "
            "height, width, channels); images[None] makes a batch of one image."
        )


def patch_size_of(model: keras.Model) -> int | None:
    """What the patches of all layers of a model divide; `None` if none has any."""
    sizes = [getattr(layer, "patch_size", None) for layer in model.layers]
    sizes = [size for size in sizes if isinstance(size, int)]
    return math.lcm(*sizes) if sizes else None


def _starts(size, window, stride):
    """Where windows start along an axis; the last one ends with it."""
    return [*range(0, size - window, stride), size - window]


def _padded(images, size):
    pads = [(0, new - old) for old, new in zip(images.shape[1:3], size, strict=True)]
    return np.pad(images, [(0, 0), *pads, (0, 0)], mode="edge")
