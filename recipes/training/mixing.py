"""Random erasing, mixup and CutMix as part of the training step."""

import keras
from keras import ops

# ImageNet statistics in pixel values.
MEAN = (123.675, 116.28, 103.53)
STANDARD_DEVIATION = (58.395, 57.12, 57.375)


class MixingModel(keras.Model):
    """A functional model that erases and mixes its training images.

    `fit` takes `recipes.data.batches.TrainingBatches`. Erasing and mixing are part of
    the compiled training step. The outputs, weights and weight names are those of the
    functional model.
    """

    def __init__(self, model):
        super().__init__(model.input, model.output, name=model.name)

    def train_step(self, *arguments):
        # JAX passes state and data, the other backends only data.
        *state, (batch, labels) = arguments
        return super().train_step(*state, mix(batch, labels))


def mix(batch, labels):
    """Applies random erasing, then mixup or CutMix, to a batch.

    The partner of image i is image `batch - 1 - i`.

    Args:
        batch: dict of `"images"`, uint8 of shape `(batch, height, width, 3)`. For
            erasing, also `"erase"`, a box in each image filled with random bytes, of
            shape `(batch, 4)`. For mixing, also the draws of `recipes.data.draws.mix`:
            `"share"` and `"weight"`, of shape `(batch,)`, and `"paste"`, a box in each
            image, of shape `(batch, 4)`.
        labels: class probabilities of shape `(batch, classes)`.

    Returns:
        The float32 images and the mixed labels.
    """
    batch = {name: ops.convert_to_tensor(value) for name, value in batch.items()}
    images = ops.cast(batch["images"], "float32")
    if "erase" in batch:
        images = ops.where(_inside(batch["erase"], images), noise(images), images)
    if "share" not in batch:
        return images, labels
    inside = _inside(batch["paste"], images)
    weight = ops.where(inside, 0.0, batch["weight"][:, None, None, None])
    images = weight * images + (1 - weight) * ops.flip(images, axis=0)
    share, labels = batch["share"][:, None], ops.convert_to_tensor(labels)
    return images, share * labels + (1 - share) * ops.flip(labels, axis=0)


def noise(values):
    """Converts random bytes to noise that is N(0, 1) after normalization.

    The bytes of a channel and of the next one form a 16-bit quantile. The images thus
    stay uint8 until they are on the device, although the noise exceeds 0–255. It
    depends only on the bytes, not on the number of devices.

    Args:
        values: float32 of 0–255, of shape `(batch, height, width, 3)`.
    """
    low = ops.roll(values, -1, axis=-1)
    uniform = (256 * values + low + 0.5) / 2**16
    normal = 2**0.5 * ops.erfinv(2 * uniform - 1)
    mean, deviation = (ops.array(x, "float32") for x in (MEAN, STANDARD_DEVIATION))
    return mean + deviation * normal


def _inside(boxes, images):
    """Returns whether each pixel is in its image's box (top, left, bottom, right)."""
    height, width = images.shape[1:3]
    top, left, bottom, right = (boxes[:, i, None] for i in range(4))
    rows, columns = ops.arange(height), ops.arange(width)
    rows = (rows >= top) & (rows < bottom)
    columns = (columns >= left) & (columns < right)
    return (rows[:, :, None] & columns[:, None, :])[..., None]
