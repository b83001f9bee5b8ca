"""What is done to one image: crop, shift, flip, RandAugment, erasing, by Pillow.

Pillow's results are RandAugment's definition here, as they are timm's. Mixing, which
takes a batch, is part of the training step (`recipes.training.mixing`).
"""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from .draws import NO_OPERATION, OPERATIONS, crop_box

FILL = (124, 116, 104)  # ImageNet's mean, for what comes from outside


def augment(picture, size, drawn):
    """Crops, shifts, mirrors, RandAugments and erases an image, in this order.

    Each step is done if its numbers are there.

    Args:
        picture: a `PIL.Image` in RGB, of the wanted size if it is not cropped.
        size: the wanted `(height, width)`.
        drawn: dict of the image's rows of what `recipes.data.draws` draws: `"crop"`;
            `"shift"`, how many pixels to move it up and left, black comes in; `"flip"`,
            whether to mirror it; `"operations"` and `"strengths"`, RandAugment's;
            `"erase"`, the box to fill with random bytes, and
            `"noise_seed"`.

    Returns:
        A uint8 array of shape `(height, width, 3)`.
    """
    height, width = size
    if "crop" in drawn:
        box = crop_box(drawn["crop"], picture.height, picture.width)
        # Not `resize(box=box)`, which looks beyond the crop's edge.
        picture = picture.crop(box)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    if "shift" in drawn:
        top, left = drawn["shift"]
        picture = picture.crop((left, top, left + width, top + height))
    if drawn.get("flip"):
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    operations = zip(
        drawn.get("operations", ()), drawn.get("strengths", ()), strict=True
    )
    for operation, strength in operations:
        if operation != NO_OPERATION:
            picture = apply(picture, OPERATIONS[operation], float(strength))
    image = np.asarray(picture)
    if "erase" in drawn:
        image = erase(image, drawn["erase"], drawn["noise_seed"])
    return image


def erase(image, box, seed):
    """Fills a box with random bytes, of which `recipes.training.mixing` makes noise.

    Args:
        image: uint8 array of shape `(height, width, 3)`.
        box: top, left, bottom, right.
        seed: of the bytes.

    Returns:
        A uint8 array of the same shape.
    """
    top, left, bottom, right = box
    image = image.copy()
    random = np.random.default_rng(seed)
    size = (bottom - top, right - left, 3)
    image[top:bottom, left:right] = random.integers(256, size=size, dtype="uint8")
    return image


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
