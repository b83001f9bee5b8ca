"""Augmentation of one image by Pillow: crop, shift, flip, RandAugment, erasing.

As in timm, Pillow's operations define RandAugment. Mixing operates on batches and is
part of the training step (`recipes.training.mixing`).
"""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from .draws import NO_OPERATION, OPERATIONS, crop_box

FILL = (124, 116, 104)  # ImageNet's mean, for pixels from outside the image


def augment(image, size, drawn):
    """Crops, shifts, flips, RandAugments and erases an image, in this order.

    Steps without random numbers in `drawn` are skipped.

    Args:
        image: a `PIL.Image` in RGB, already of the output size if it is not cropped.
        size: the output `(height, width)`.
        drawn: dict of the image's random numbers from `recipes.data.draws`: `"crop"`;
            `"shift"`, pixels to move the image up and left, filling with black;
            `"flip"`, whether to mirror it; `"operations"` and `"strengths"` of
            RandAugment; `"erase"`, the box to fill with random bytes; and
            `"noise_seed"`, the seed of these bytes.

    Returns:
        A uint8 array of shape `(height, width, 3)`.
    """
    height, width = size
    if "crop" in drawn:
        box = crop_box(drawn["crop"], image.height, image.width)
        # `resize(box=box)` would also read pixels beyond the crop's edge.
        image = image.crop(box)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    if "shift" in drawn:
        top, left = drawn["shift"]
        image = image.crop((left, top, left + width, top + height))
    if drawn.get("flip"):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    operations = zip(
        drawn.get("operations", ()), drawn.get("strengths", ()), strict=True
    )
    for operation, strength in operations:
        if operation != NO_OPERATION:
            image = apply(image, OPERATIONS[operation], float(strength))
    image = np.asarray(image)
    if "erase" in drawn:
        image = erase(image, drawn["erase"], drawn["noise_seed"])
    return image


def erase(image, box, seed):
    """Fills a box with random bytes, which `recipes.training.mixing` turns into noise.

    Args:
        image: uint8 array of shape `(height, width, 3)`.
        box: top, left, bottom, right.
        seed: seed of the random bytes.

    Returns:
        A uint8 array of the same shape.
    """
    top, left, bottom, right = box
    image = image.copy()
    random = np.random.default_rng(seed)
    size = (bottom - top, right - left, 3)
    image[top:bottom, left:right] = random.integers(256, size=size, dtype="uint8")
    return image


def apply(image, operation, strength):
    """Applies one of RandAugment's operations at a strength of `recipes.data.draws`."""
    return _OPERATIONS[operation](image, strength)


def _posterize(image, bits):
    # ImageOps.posterize does not support 0 bits, which gives black.
    mask = 256 - 2 ** (8 - int(bits))
    return image.point([value & mask for value in _ALL] * 3)


def _solarize_add(image, addend):
    table = [min(value + int(addend), 255) if value < 128 else value for value in _ALL]
    return image.point(table * 3)


def _rotate(image, degrees):
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=FILL)


def _affine(image, *matrix):
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
        fillcolor=FILL,
    )


def _enhance(kind):
    return lambda image, factor: kind(image).enhance(factor)


_ALL = range(256)
_OPERATIONS = {
    "auto_contrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "invert": lambda image, _: ImageOps.invert(image),
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": ImageOps.solarize,
    "solarize_add": _solarize_add,
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": lambda image, by: _affine(image, 1, by, 0, 0, 1, 0),
    "shear_y": lambda image, by: _affine(image, 1, 0, 0, by, 1, 0),
    "translate_x": lambda image, by: _affine(image, 1, 0, by * image.width, 0, 1, 0),
    "translate_y": lambda image, by: _affine(image, 1, 0, 0, 0, 1, by * image.height),
}
