"""What is done to a training image and its labels on the host.

mmsegmentation's pipeline for ADE20K, which XCiT's recipe uses: random resize, random
crop, mirror, photometric distortion, padding. As in `recipes.data.draws`, what is
random is drawn as numbers for a whole batch, and applied to one image.
"""

import numpy as np
from PIL import Image

from ..augment import FILL
from .pairs import IGNORED

ATTEMPTS = 10  # to find a crop with enough classes; after them any is taken
BRIGHTNESS = 32  # at most added to or taken from values of 0–255
FACTORS = (0.5, 1.5)  # of contrast and of saturation
HUE = 36  # degrees to either side, 18 in OpenCV's unit


def draw(random, number, policy):
    """What is drawn for some pictures: arrays with a row for each.

    Args:
        random: a `numpy.random.Generator`.
        number: of images.
        policy: a `recipes.options.segmentation.Augmentation`.

    Returns:
        A dict of `"ratio"`, the factor on the scale, `(number,)`; `"corners"`, uniform
        numbers of 0–1 for the crops to try, `(number, ATTEMPTS + 1, 2)`; if wanted
        `"flip"`, bool `(number,)`, and `"photometric"`, `(number, 5)`: what is added to
        the values, the factors of contrast and saturation, by how many degrees to turn
        the hue, and 1 where contrast comes before the colors, else 0.
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


def augment(picture, labels, size, scale, most_of_one_class, drawn):
    """Resizes, crops, mirrors, distorts and pads an image and its labels.

    Args:
        picture: a `PIL.Image` in RGB.
        labels: its classes, uint8 of shape `(height, width)`.
        size: the wanted `(height, width)`.
        scale: the short and the long side for a ratio of 1, see `scaled`.
        most_of_one_class: see `crop_box`.
        drawn: the image's rows of what `draw` draws.

    Returns:
        uint8 arrays of shapes `(height, width, 3)` and `(height, width)`. What is
        padded, at the right and below, has ImageNet's mean, which is zero for the
        network, and does not count.
    """
    scale = tuple(int(side * drawn["ratio"]) for side in scale)
    picture = resized(picture, scaled(picture.size, scale))
    labels = Image.fromarray(labels).resize(picture.size, Image.Resampling.NEAREST)
    labels = np.asarray(labels)
    box = crop_box(labels, size, drawn["corners"], most_of_one_class)
    left, top, right, bottom = box
    picture, labels = picture.crop(box), labels[top:bottom, left:right]
    if drawn.get("flip"):
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        labels = labels[:, ::-1]
    if "photometric" in drawn:
        picture = distort(picture, *drawn["photometric"])
    return padded(np.asarray(picture), size, FILL), padded(labels, size, IGNORED)


def scaled(size, scale):
    """The size that an image gets: as large as the scale's two sides let it be.

    Args:
        size: of the image, `(width, height)`.
        scale: the longest that the short and the long side may become.

    Returns:
        `(width, height)` of the same proportions, in whole pixels.
    """
    factor = min(min(scale) / min(size), max(scale) / max(size))
    return tuple(max(int(side * factor + 0.5), 1) for side in size)


def resized(picture, size):
    """A `PIL.Image` of another `(width, height)`, bilinear; antialiased if smaller."""
    if picture.size == size:
        return picture
    return picture.resize(size, Image.Resampling.BILINEAR)


def crop_box(labels, size, corners, most_of_one_class):
    """The first crop in which no class has too much, or else the last.

    A crop of a single class has too much of it; pixels that do not count are of no
    class. (mmsegmentation's `RandomCrop` with `cat_max_ratio`: ten crops are looked at,
    an eleventh is taken as it is.)

    Args:
        labels: uint8 of shape `(height, width)`, `IGNORED` where a pixel does not
            count.
        size: the wanted `(height, width)`; the crop is smaller where the image is.
        corners: numbers of 0–1 for the upper and left edge of each crop to try, the
            last without a look at it, of shape `(crops, 2)`.
        most_of_one_class: a crop's largest class has less than this share of the pixels
            that count; 1 to take the first crop, whatever is in it.

    Returns:
        Left, upper, right and lower edge in pixels, as Pillow orders them.
    """
    height, width = (min(a, b) for a, b in zip(size, labels.shape, strict=True))
    boxes = []
    for for_top, for_left in corners:
        top = int(for_top * (labels.shape[0] - height + 1))
        left = int(for_left * (labels.shape[1] - width + 1))
        boxes.append((left, top, left + width, top + height))
    if most_of_one_class >= 1:
        return boxes[0]
    for left, top, right, bottom in boxes[:-1]:
        counts = np.bincount(labels[top:bottom, left:right].ravel(), minlength=256)
        counts = counts[:IGNORED]
        if 0 < counts.max() < most_of_one_class * counts.sum():
            return left, top, right, bottom
    return boxes[-1]


def distort(picture, brightness, contrast, saturation, hue, contrast_first):
    """mmsegmentation's `PhotoMetricDistortion`, in Pillow's colors.

    Args:
        picture: a `PIL.Image` in RGB.
        brightness: what is added to the values.
        contrast: factor of the values.
        saturation: factor of the saturation.
        hue: degrees that the hue is turned by.
        contrast_first: whether contrast comes before saturation and hue, or after.
    """
    picture = _with_values(picture, 1, brightness)
    if contrast_first:
        picture = _with_values(picture, contrast, 0)
    turn = round(hue * 256 / 360)  # a circle of hues has 256 steps
    if saturation != 1 or turn:
        hues, saturations, values = picture.convert("HSV").split()
        hues = hues.point([(value + turn) % 256 for value in range(256)])
        saturations = _with_values(saturations, saturation, 0)
        picture = Image.merge("HSV", (hues, saturations, values)).convert("RGB")
    if not contrast_first:
        picture = _with_values(picture, contrast, 0)
    return picture


def _with_values(picture, factor, addend):
    """Whole values of 0–255, cut off behind the point as mmsegmentation's are."""
    if (factor, addend) == (1, 0):
        return picture
    table = [int(min(max(value * factor + addend, 0), 255)) for value in range(256)]
    return picture.point(table * len(picture.getbands()))


def padded(array, size, fill):
    """An array with a border at the right and below, up to a `(height, width)`."""
    if array.shape[:2] == tuple(size):
        return array
    result = np.empty((*size, *array.shape[2:]), array.dtype)
    result[:] = fill
    result[: array.shape[0], : array.shape[1]] = array
    return result
