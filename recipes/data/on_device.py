"""What is done to a batch on the device, inside the training step, by `keras.ops`.

What is drawn at random comes with the batch (`recipes.data.draws`), so a batch means
the same pixels on every backend, but for the noise of random erasing here, whose seed
it has.
"""

import math

import keras
from keras import ops

from .draws import OPERATIONS
from .on_host import FILL, MEAN, STANDARD_DEVIATION


def augment(batch, labels):
    """Shifts, mirrors, RandAugments, erases and mixes a batch, as it says.

    Each step is done if the batch has its numbers, in this order.

    Args:
        batch: dict of `"images"`, of shape `(batch, height, width, 3)`, uint8 or, if
            the host has erased them, int16; and for each image what was drawn for it:
            `"shift"`: how many pixels to move it up and left, `(batch, 2)`; black
            comes in;
            `"flip"`: 1 to mirror it, else 0, `(batch,)`;
            `"operations"` and `"strengths"`: RandAugment's, `(batch, count)`;
            `"erase"`: the box to fill with noise, `(batch, 4)`, and
            `"noise_seed"`, `(batch, 2)`, of which the first row counts;
            `"share"`, `"weight"`, `"paste"`: of `recipes.data.draws.mix`. The
            partner of an image is the one as far from the other end of the batch.
        labels: probabilities of the classes, of shape `(batch, classes)`.

    Returns:
        float32 images in values around 0–255, and the mixed labels.
    """
    batch = {name: ops.convert_to_tensor(value) for name, value in batch.items()}
    images, labels = batch["images"], ops.convert_to_tensor(labels)
    if "shift" in batch:
        images = shift(images, batch["shift"])
    if "flip" in batch:
        mirrored = ops.cast(_each(batch["flip"]), "bool")
        images = ops.where(mirrored, ops.flip(images, axis=2), images)
    if "operations" in batch:
        images = rand_augment(images, batch["operations"], batch["strengths"])
    images = ops.cast(images, "float32")
    if "erase" in batch:
        images = erase(images, batch["erase"], batch["noise_seed"][0])
    if "share" in batch:
        images = mix_images(images, batch["weight"], batch["paste"])
        share = batch["share"][:, None]
        labels = share * labels + (1 - share) * ops.flip(labels, axis=0)
    return images, labels


def shift(images, by):
    """Moves each image up and left by its number of pixels, black comes in."""
    height, width = images.shape[1:3]
    by = ops.cast(by, "int32")
    rows = ops.arange(height, dtype="int32") + by[:, :1]
    columns = ops.arange(width, dtype="int32") + by[:, 1:]
    inside = ((rows >= 0) & (rows < height))[:, :, None]
    inside = inside & ((columns >= 0) & (columns < width))[:, None, :]
    rows = ops.clip(rows, 0, height - 1)[:, :, None, None]
    columns = ops.clip(columns, 0, width - 1)[:, None, :, None]
    moved = ops.take_along_axis(images, rows, axis=1)
    moved = ops.take_along_axis(moved, columns, axis=2)
    return ops.where(inside[..., None], moved, ops.zeros_like(moved))


def rand_augment(images, operations, strengths):
    """RandAugment: the operations of each image, one after the other.

    Every operation is a table for the values, a blend with a gray or smooth image, or
    an affine map; each image goes through all three, of which at most one changes it.
    Values agree with Pillow's, those of affine maps on average within a gray level.

    Args:
        images: uint8 tensor of shape `(batch, height, width, 3)`.
        operations: indices of `recipes.data.draws.OPERATIONS`, or -1 for none, of
            shape `(batch, count)`.
        strengths: theirs, in the units of `recipes.data.draws.strength`.

    Returns:
        A tensor like the images.
    """
    for k in range(operations.shape[1]):
        operation, strength = operations[:, k], strengths[:, k]
        images = _apply_tables(images, operation, strength)
        images = _apply_blends(images, operation, strength)
        images = _apply_affine(images, operation, strength)
    return images


def erase(images, boxes, seed):
    """Fills a box of each image with noise, N(0, 1) after normalization per pixel."""
    noise = keras.random.normal(ops.shape(images), seed=_GivenSeed(seed))
    noise = ops.array(MEAN) + ops.array(STANDARD_DEVIATION) * noise
    return ops.where(_inside(boxes, images), noise, images)


def mix_images(images, weight, boxes):
    """Blends each image with its partner: mixup, or CutMix in a box."""
    weight = ops.where(_inside(boxes, images), 0.0, _each(weight))
    return weight * images + (1 - weight) * ops.flip(images, axis=0)


class _GivenSeed(keras.random.SeedGenerator):
    """Makes Keras draw with the numbers of a tensor, and keeps no state."""

    def __init__(self, seed):
        self.given = seed

    def next(self, ordered=True):
        return ops.cast(self.given, "uint32")


def _each(values):
    """One value for each image, so that it meets the image's pixels."""
    return values[:, None, None, None]


def _inside(boxes, images):
    """Whether a pixel is in its image's box (top, left, bottom, right)."""
    height, width = images.shape[1:3]
    top, left, bottom, right = (boxes[:, i, None] for i in range(4))
    rows, columns = ops.arange(height), ops.arange(width)
    rows = (rows >= top) & (rows < bottom)
    columns = (columns >= left) & (columns < right)
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def _is(operation, name):
    return ops.equal(operation, OPERATIONS.index(name))


def _gray(images):
    """Pillow's gray, int32, one channel."""
    weighted = ops.cast(images, "int32") * ops.array([19595, 38470, 7471], "int32")
    return (ops.sum(weighted, axis=-1, keepdims=True) + 0x8000) // 0x10000


def _blend(start, end, factor):
    """Pillow's: from start, at 0, over end, at 1, and beyond; cut to whole values."""
    return ops.floor(ops.clip(start + factor * (end - start), 0, 255))


def _apply_tables(images, operation, strength):
    """The operations that look at one value at a time: 256 entries for each channel."""
    number = ops.shape(images)[0]
    height, width = images.shape[1:3]
    values = ops.reshape(images, (number, height * width, 3))
    values = ops.cast(ops.transpose(values, (0, 2, 1)), "int32")
    entries = ops.arange(256, dtype="float32")[None, None]
    by = strength[:, None, None]
    gray = ops.mean(ops.cast(_gray(images), "float32"), axis=(1, 2, 3))
    step = ops.power(2.0, 8 - by)
    tables = {
        "auto_contrast": _auto_contrast(values),
        "equalize": _equalize(values),
        "invert": 255 - entries,
        "posterize": ops.floor(entries / step) * step,
        "solarize": ops.where(entries < by, entries, 255 - entries),
        "solarize_add": ops.where(
            entries < 128, ops.minimum(entries + by, 255), entries
        ),
        "contrast": _blend(ops.floor(gray + 0.5)[:, None, None], entries, by),
        "brightness": _blend(0.0, entries, by),
    }
    table = ops.broadcast_to(entries, (number, 3, 256))
    for name, wanted in tables.items():
        table = ops.where(_is(operation, name)[:, None, None], wanted, table)
    values = ops.take_along_axis(ops.cast(table, "uint8"), values, axis=2)
    return ops.reshape(ops.transpose(values, (0, 2, 1)), (number, height, width, 3))


def _auto_contrast(values):
    """Stretches each channel to 0–255."""
    lowest = ops.min(values, axis=2, keepdims=True)
    highest = ops.max(values, axis=2, keepdims=True)
    entries = ops.arange(256, dtype="int32")[None, None]
    stretched = (entries - lowest) * 255 // ops.maximum(highest - lowest, 1)
    stretched = ops.where(highest > lowest, ops.clip(stretched, 0, 255), entries)
    return ops.cast(stretched, "float32")


def _equalize(values):
    """Makes the histogram of each channel flat."""
    number, pixels = ops.shape(values)[0], values.shape[2]
    first = 256 * ops.reshape(ops.arange(number * 3), (number, 3, 1))
    histogram = ops.segment_sum(
        ops.ones((number * 3 * pixels,), "int32"),
        ops.reshape(values + ops.cast(first, "int32"), (-1,)),
        num_segments=number * 3 * 256,
    )
    histogram = ops.reshape(histogram, (number, 3, 256))
    last = ops.take_along_axis(histogram, ops.max(values, axis=2, keepdims=True), 2)
    step = (pixels - last) // 255
    before = ops.cumsum(histogram, axis=2) - histogram
    table = (step // 2 + before) // ops.maximum(step, 1)
    entries = ops.arange(256, dtype="int32")[None, None]
    table = ops.where(step > 0, ops.minimum(table, 255), entries)
    return ops.cast(table, "float32")


def _apply_blends(images, operation, strength):
    """Color blends with gray, sharpness with a smooth image, the edge excepted."""
    values = ops.cast(images, "float32")
    kernel = ops.array([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    kernel = ops.tile(kernel[:, :, None, None], (1, 1, 3, 1))
    smooth = ops.floor(ops.depthwise_conv(values, kernel, padding="valid") + 0.5)
    smooth = ops.pad(smooth, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1)
    smooth = ops.where(smooth < 0, values, smooth)
    gray = ops.cast(_gray(images), "float32")
    is_color = _each(_is(operation, "color"))
    is_sharpness = _each(_is(operation, "sharpness"))
    blended = _blend(ops.where(is_color, gray, smooth), values, _each(strength))
    return ops.cast(ops.where(is_color | is_sharpness, blended, values), "uint8")


def _apply_affine(images, operation, strength):
    """Takes (x, y) from (ax + by + c, dx + ay + f), bilinear, `FILL` from outside.

    x and y count from the image's corner, as Pillow's do: the center of the first pixel
    is (0.5, 0.5).
    """
    height, width = images.shape[1:3]

    def where(name, value):
        return ops.where(_is(operation, name), value, 0.0)

    angle = where("rotate", -strength * (math.pi / 180))
    a, b = ops.cos(angle), ops.sin(angle)
    c = width / 2 * (1 - a) - height / 2 * b + where("translate_x", strength * width)
    f = height / 2 * (1 - a) + width / 2 * b + where("translate_y", strength * height)
    d = -b + where("shear_y", strength)
    b = b + where("shear_x", strength)
    a, b, c, d, f = (value[:, None, None] for value in (a, b, c, d, f))
    x = ops.arange(width, dtype="float32") + 0.5
    y = ops.arange(height, dtype="float32")[:, None] + 0.5
    moved = _sample(images, a * x + b * y + c - 0.5, d * x + a * y + f - 0.5)
    # Pillow cuts the fraction off; a little more keeps whole values what they are.
    return ops.cast(ops.floor(moved + 1e-3), "uint8")


def _sample(images, x, y):
    """Bilinear values at the places (x, y) between pixels; `FILL` outside.

    `keras.ops.image.affine_transform` does it, too, but not under XLA on TensorFlow,
    and ten times slower on torch.
    """
    height, width = images.shape[1:3]
    fill = ops.array(FILL, "float32")
    number = ops.shape(images)[0]
    pixels = ops.reshape(images, (number, height * width, 3))
    left, top = ops.floor(x), ops.floor(y)
    result = ops.zeros((), "float32")
    for column, across in ((left, left + 1 - x), (left + 1, x - left)):
        for row, down in ((top, top + 1 - y), (top + 1, y - top)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = ops.clip(row, 0, height - 1) * width
            index = index + ops.clip(column, 0, width - 1)
            index = ops.reshape(ops.cast(index, "int32"), (number, height * width, 1))
            value = ops.cast(ops.take_along_axis(pixels, index, axis=1), "float32")
            value = ops.reshape(value, ops.shape(images))
            value = ops.where(inside[..., None], value, fill)
            result = result + (across * down)[..., None] * value
    return result
