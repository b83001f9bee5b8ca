"""Augmentation of a training image and its labels on the host.

This is mmsegmentation's pipeline for ADE20K, which XCiT's recipe uses: random resize,
random crop, flip, photometric distortion, padding. As in `recipes.data.draws`, random
numbers are drawn for a whole batch and applied to each image.
"""

import numpy as np
from PIL import Image

from ..augment import FILL
from .pairs import IGNORED

ATTEMPTS = 10  # number of attempts to find a crop with enough classes
BRIGHTNESS = 32  # maximum change of values of 0–255
FACTORS = (0.5, 1.5)  # range for contrast and saturation
HUE = 36  # maximum rotation in degrees, 18 in OpenCV's unit


def draw(random, number, policy):
    """Draws the random numbers of images, arrays with one row per image.

    Args:
        random: a `numpy.random.Generator`.
        number: number of images.
        policy: a `recipes.options.segmentation.Augmentation`.

    Returns:
        A dict of `"ratio"`, the factor on the scale, `(number,)`; `"corners"`, uniform
        numbers of 0–1 for the crops to try, `(number, ATTEMPTS + 1, 2)`; if enabled,
        `"flip"`, bool `(number,)`; and, if enabled, `"photometric"`, `(number, 5)`: the
        addend of the values, the factors of contrast and saturation, the rotation of
        the hue in degrees, and 1 if contrast precedes saturation and hue, else 0.
    """
    low, high = policy.resize
    drawn = {
        "ratio": random.uniform(low, high, number),
        "corners": random.random((number, ATTEMPTS + 1, 2)),
    }
    if policy.flip:
        drawn["flip"] = random.random(number) < 0.5
    if policy.photometric:
        changes = np.stack(
            [
                random.uniform(-BRIGHTNESS, BRIGHTNESS, number),
                random.uniform(*FACTORS, number),
                random.uniform(*FACTORS, number),
                random.uniform(-HUE, HUE, number),
            ],
            axis=1,
        )
        applied = random.random((number, 4)) < 0.5
        changes = np.where(applied, changes, [0, 1, 1, 0])
        first = random.integers(2, size=(number, 1))
        drawn["photometric"] = np.concatenate([changes, first], axis=1)
    return drawn


def augment(image, labels, size, scale, max_class_fraction, drawn):
    """Resizes, crops, flips, distorts and pads an image and its labels.

    Args:
        image: a `PIL.Image` in RGB.
        labels: classes of the pixels, uint8 of shape `(height, width)`.
        size: the output `(height, width)`.
        scale: the short and the long side for a ratio of 1, see `scaled_size`.
        max_class_fraction: see `crop_box`.
        drawn: the image's random numbers from `draw`.

    Returns:
        uint8 arrays of shapes `(height, width, 3)` and `(height, width)`. Padding at
        the right and bottom has ImageNet's mean, which the network normalizes to zero,
        and ignored labels.
    """
    scale = tuple(int(side * drawn["ratio"]) for side in scale)
    image = resize(image, scaled_size(image.size, scale))
    labels = Image.fromarray(labels).resize(image.size, Image.Resampling.NEAREST)
    labels = np.asarray(labels)
    box = crop_box(labels, size, drawn["corners"], max_class_fraction)
    left, top, right, bottom = box
    image, labels = image.crop(box), labels[top:bottom, left:right]
    if drawn.get("flip"):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        labels = labels[:, ::-1]
    if "photometric" in drawn:
        image = distort(image, *drawn["photometric"])
    return pad(np.asarray(image), size, FILL), pad(labels, size, IGNORED)


def scaled_size(size, scale):
    """Returns the largest size of an image within a scale, keeping the aspect ratio.

    Args:
        size: size of the image, `(width, height)`.
        scale: maximum of the short and of the long side.

    Returns:
        `(width, height)` in whole pixels.
    """
    factor = min(min(scale) / min(size), max(scale) / max(size))
    return tuple(max(int(side * factor + 0.5), 1) for side in size)


def resize(image, size):
    """Resizes a `PIL.Image` to `(width, height)`, bilinear with antialiasing."""
    if image.size == size:
        return image
    return image.resize(size, Image.Resampling.BILINEAR)


def crop_box(labels, size, corners, max_class_fraction):
    """Returns the first crop that no class dominates, or else the last.

    Crops of a single class are rejected; ignored pixels belong to no class. This is
    mmsegmentation's `RandomCrop` with `cat_max_ratio`, which checks ten crops and
    accepts the eleventh unchecked.

    Args:
        labels: uint8 of shape `(height, width)`, `IGNORED` for ignored pixels.
        size: `(height, width)` of the crop, which is smaller if the image is.
        corners: numbers of 0–1 for the upper and left edge of each crop to try, of
            shape `(crops, 2)`; the last is not checked.
        max_class_fraction: upper bound, exclusive, of the largest class's fraction of
            the labeled pixels; 1 accepts the first crop unchecked.

    Returns:
        Left, upper, right and lower edge in pixels, in Pillow's order.
    """
    height, width = (min(a, b) for a, b in zip(size, labels.shape, strict=True))
    boxes = []
    for for_top, for_left in corners:
        top = int(for_top * (labels.shape[0] - height + 1))
        left = int(for_left * (labels.shape[1] - width + 1))
        boxes.append((left, top, left + width, top + height))
    if max_class_fraction >= 1:
        return boxes[0]
    for left, top, right, bottom in boxes[:-1]:
        counts = np.bincount(labels[top:bottom, left:right].ravel(), minlength=256)
        counts = counts[:IGNORED]
        if 0 < counts.max() < max_class_fraction * counts.sum():
            return left, top, right, bottom
    return boxes[-1]


def distort(image, brightness, contrast, saturation, hue, contrast_first):
    """mmsegmentation's `PhotoMetricDistortion`, in Pillow's colors.

    Args:
        image: a `PIL.Image` in RGB.
        brightness: addend of the values.
        contrast: factor of the values.
        saturation: factor of the saturation.
        hue: rotation of the hue in degrees.
        contrast_first: whether contrast precedes saturation and hue.
    """
    image = _with_values(image, 1, brightness)
    if contrast_first:
        image = _with_values(image, contrast, 0)
    turn = round(hue * 256 / 360)  # Pillow's hue has 256 steps
    if saturation != 1 or turn:
        hues, saturations, values = image.convert("HSV").split()
        hues = hues.point([(value + turn) % 256 for value in range(256)])
        saturations = _with_values(saturations, saturation, 0)
        image = Image.merge("HSV", (hues, saturations, values)).convert("RGB")
    if not contrast_first:
        image = _with_values(image, contrast, 0)
    return image


def _with_values(image, factor, addend):
    """Scales and shifts values of 0–255, and truncates them like mmsegmentation."""
    if (factor, addend) == (1, 0):
        return image
    table = [int(min(max(value * factor + addend, 0), 255)) for value in range(256)]
    return image.point(table * len(image.getbands()))


def pad(array, size, fill):
    """Pads an array at the right and bottom to a size `(height, width)`."""
    if array.shape[:2] == tuple(size):
        return array
    result = np.empty((*size, *array.shape[2:]), array.dtype)
    result[:] = fill
    result[: array.shape[0], : array.shape[1]] = array
    return result
