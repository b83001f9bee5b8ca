"""What is done to a picture before it is an array: crop, flip, RandAugment, by Pillow.

Pillow's results are RandAugment's definition here, as they are timm's.
"""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from recipes.data.draws import NO_OPERATION, OPERATIONS, crop_box

FILL = (124, 116, 104)  # ImageNet's mean, for what comes from outside


def crop_and_augment(picture, size, attempts, flipped, operations, strengths):
    """Cuts a random crop from a picture, resizes it, and augments the result.

    Args:
        picture: a `PIL.Image` in RGB.
        size: the wanted `(height, width)`.
        attempts: of `recipes.data.draws.crop_attempts`, for one image.
        flipped: whether to mirror it.
        operations: RandAugment's, indices of `recipes.data.draws.OPERATIONS`.
        strengths: theirs.

    Returns:
        A uint8 array of shape `(height, width, 3)`.
    """
    height, width = size
    box = crop_box(attempts, picture.height, picture.width)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC, box=box)
    if flipped:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for operation, strength in zip(operations, strengths, strict=True):
        if operation != NO_OPERATION:
            picture = apply(picture, OPERATIONS[operation], float(strength))
    return np.asarray(picture)


def apply(picture, operation, strength):
    """One of RandAugment's operations at a strength of `recipes.data.draws`."""
    return _OPERATIONS[operation](picture, strength)


def _posterize(picture, bits):
    # ImageOps.posterize refuses to keep 0 bits, which is black.
    mask = 256 - 2 ** (8 - int(bits))
    return picture.point([value & mask for value in _ALL] * 3)


def _solarize_add(picture, addend):
    table = [min(value + int(addend), 255) if value < 128 else value for value in _ALL]
    return picture.point(table * 3)


def _rotate(picture, degrees):
    return picture.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=FILL)


def _affine(picture, *matrix):
    return picture.transform(
        picture.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
        fillcolor=FILL,
    )


def _enhance(kind):
    return lambda picture, factor: kind(picture).enhance(factor)


_ALL = range(256)
_OPERATIONS = {
    "auto_contrast": lambda picture, _: ImageOps.autocontrast(picture),
    "equalize": lambda picture, _: ImageOps.equalize(picture),
    "invert": lambda picture, _: ImageOps.invert(picture),
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": ImageOps.solarize,
    "solarize_add": _solarize_add,
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": lambda picture, by: _affine(picture, 1, by, 0, 0, 1, 0),
    "shear_y": lambda picture, by: _affine(picture, 1, 0, 0, by, 1, 0),
    "translate_x": lambda picture, by: _affine(
        picture, 1, 0, by * picture.width, 0, 1, 0
    ),
    "translate_y": lambda picture, by: _affine(
        picture, 1, 0, 0, 0, 1, by * picture.height
    ),
}
