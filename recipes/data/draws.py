"""Random numbers for augmentation.

`recipes.data.augment` and `recipes.training.mixing` apply them. They depend only on the
given generator, not on the backend. The distributions are those of DeiT's recipe, which
the paper uses (section 4).
"""

import numpy as np

# timm's operations of "rand-m9-mstd0.5-inc1", in its order.
OPERATIONS = (
    "auto_contrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "solarize_add",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
NO_OPERATION = -1
ATTEMPTS = 10  # number of attempts to place a crop or a box


def rand_augment(random, number, magnitude, count=2, probability=0.5, deviation=0.5):
    """Draws RandAugment's operations, with replacement.

    Args:
        random: a `numpy.random.Generator`.
        number: number of images.
        magnitude: mean of the normal distribution of the magnitudes, which are
            clipped to 0–10.
        count: number of operations per image.
        probability: probability of applying each operation.
        deviation: standard deviation of the magnitudes.

    Returns:
        Two arrays of shape `(number, count)`: int32 indices of `OPERATIONS`, or
        `NO_OPERATION`; and float32 strengths in the units of `strength`.
    """
    shape = (number, count)
    operations = random.integers(len(OPERATIONS), size=shape, dtype="int32")
    level = np.clip(random.normal(magnitude, deviation, shape), 0, 10) / 10
    strengths = strength(operations, level, random.choice([-1, 1], shape))
    applied = random.random(shape) < probability
    return np.where(applied, operations, np.int32(NO_OPERATION)), strengths


def strength(operations, level, sign):
    """Returns the strength of operations at levels of 0–1, increasing with the level.

    The strength is the counterclockwise angle in degrees for `rotate`; the number of
    bits to keep for `posterize`; the threshold for `solarize`; the addend of dark
    values for `solarize_add`; the factor for `color`, `contrast`, `brightness` and
    `sharpness`, 1 for no change; the tangent for shears; the fraction of the image's
    side for translations; and 0 for the other operations.
    """
    factor = np.maximum(0.1, 1 + sign * 0.9 * level)
    strengths = {
        "rotate": sign * 30 * level,
        "posterize": 4 - np.floor(4 * level),
        "solarize": 256 - np.floor(256 * level),
        "solarize_add": np.minimum(128, np.floor(110 * level)),
        **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), factor),
        **dict.fromkeys(("shear_x", "shear_y"), sign * 0.3 * level),
        **dict.fromkeys(("translate_x", "translate_y"), sign * 0.45 * level),
    }
    result = np.zeros(np.shape(operations), "float32")
    for name, value in strengths.items():
        result = np.where(operations == OPERATIONS.index(name), value, result)
    return result.astype("float32")


def crop_attempts(random, number):
    """Draws uniform numbers for `crop_box`, of shape `(number, ATTEMPTS, 4)`."""
    return random.random((number, ATTEMPTS, 4))


def crop_box(attempts, height, width, area=(0.08, 1), ratio=(3 / 4, 4 / 3)):
    """Returns the box of a random resized crop: the first attempt inside the image.

    If no attempt fits, it is the largest center crop with a ratio in range.

    Args:
        attempts: numbers of one image from `crop_attempts`.
        height: height of the image in pixels.
        width: width of the image in pixels.
        area: range of the crop's fraction of the image's area, sampled uniformly.
        ratio: range of width over height, sampled log-uniformly.

    Returns:
        Left, upper, right and lower edge in pixels, in Pillow's order.
    """
    for for_area, for_ratio, for_left, for_top in attempts:
        target = (area[0] + (area[1] - area[0]) * for_area) * height * width
        shape = ratio[0] * (ratio[1] / ratio[0]) ** for_ratio
        w, h = round((target * shape) ** 0.5), round((target / shape) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left = int(for_left * (width - w + 1))
            top = int(for_top * (height - h + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def erase_boxes(random, number, height, width, probability):
    """Draws boxes for random erasing, of 2–33 % of the area and ratio 0.3–3.3.

    Returns:
        An int32 array of shape `(number, 4)`: top, left, bottom, right in pixels; all
        0 for images without a box.
    """
    shape = (number, ATTEMPTS)
    area = random.uniform(0.02, 1 / 3, shape) * height * width
    ratio = np.exp(random.uniform(np.log(0.3), np.log(1 / 0.3), shape))
    h = np.round(np.sqrt(area * ratio)).astype("int32")
    w = np.round(np.sqrt(area / ratio)).astype("int32")
    top = (random.random(shape) * (height - h + 1)).astype("int32")
    left = (random.random(shape) * (width - w + 1)).astype("int32")
    boxes = np.stack([top, left, top + h, left + w], axis=-1)
    fits = (h < height) & (w < width)
    chosen = boxes[np.arange(number), fits.argmax(axis=1)]
    erased = (random.random(number) < probability) & fits.any(axis=1)
    return np.where(erased[:, None], chosen, 0).astype("int32")


def mix(random, height, width, mixup_alpha, cutmix_alpha):
    """Draws mixup or CutMix for a batch, each with probability 1/2 if both are enabled.

    Args:
        random: a `numpy.random.Generator`.
        height: height of the images in pixels.
        width: width of the images in pixels.
        mixup_alpha: alpha of mixup's Beta distribution; 0 for no mixup.
        cutmix_alpha: alpha of CutMix's Beta distribution; 0 for no CutMix.

    Returns:
        The fraction λ that an image keeps of its content; the weight of its pixels
        outside the box; and the box into which its partner is pasted (top, left,
        bottom, right), empty for mixup. CutMix's λ is that of the box after clipping
        at the image's edges.
    """
    nothing = (0, 0, 0, 0)
    if cutmix_alpha and (not mixup_alpha or random.random() < 0.5):
        side = np.sqrt(1 - random.beta(cutmix_alpha, cutmix_alpha))
        h, w = int(height * side), int(width * side)
        y, x = random.integers(height), random.integers(width)
        top, bottom = max(y - h // 2, 0), min(y + h // 2, height)
        left, right = max(x - w // 2, 0), min(x + w // 2, width)
        pasted = (bottom - top) * (right - left) / (height * width)
        return 1 - pasted, 1.0, (top, left, bottom, right)
    share = random.beta(mixup_alpha, mixup_alpha) if mixup_alpha else 1.0
    return share, share, nothing
