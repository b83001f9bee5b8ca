"""A model that erases boxes of its training images and mixes them: mixup and CutMix."""

import keras
from keras import ops

# Of ImageNet, in pixel values.
MEAN = (123.675, 116.28, 103.53)
STANDARD_DEVIATION = (58.395, 57.12, 57.375)


class MixingModel(keras.Model):
    """A functional model's layers; `fit` takes `recipes.data.batches.TrainingBatches`.

    Erasing and mixing are part of the compiled training step. What the model computes,
    its weights and their names stay the same.
    """

    def __init__(self, model):
        super().__init__(model.input, model.output, name=model.name)

    def train_step(self, *arguments):
        # JAX: state and data, the others: data.
        *state, (batch, labels) = arguments
        return super().train_step(*state, mix(batch, labels))


def mix(batch, labels):
    """Erases boxes, then blends each image with its partner or pastes a box of it.

    That is random erasing, mixup and CutMix. The partner of an image is the one as far
    from the other end of the batch.

    Args:
        batch: dict of `"images"`, uint8 of shape `(batch, height, width, 3)`; to erase
            them, `"erase"`, a box of random bytes in each, `(batch, 4)`; to mix them,
            what `recipes.data.draws.mix` draws, a row for each image: `"share"`
            and `"weight"`, of shape `(batch,)`, and `"paste"`, the box, `(batch, 4)`.
        labels: probabilities of the classes, of shape `(batch, classes)`.

    Returns:
        float32 images, and the mixed labels.
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
    """Noise of N(0, 1) after normalization, for each pixel and channel, from bytes.

    The byte of a channel and that of the next are a number of 16 bits, which says the
    quantile: images travel as bytes, and noise goes beyond 0 to 255 all the same. It
    follows from the bytes alone, on any number of devices.

    Args:
        values: float32 of 0–255, of shape `(batch, height, width, 3)`.
    """
    low = ops.roll(values, -1, axis=-1)
    uniform = (256 * values + low + 0.5) / 2**16
    normal = 2**0.5 * ops.erfinv(2 * uniform - 1)
    mean, deviation = (ops.array(x, "float32") for x in (MEAN, STANDARD_DEVIATION))
    return mean + deviation * normal


def _inside(boxes, images):
    """Whether a pixel is in its image's box (top, left, bottom, right)."""
    height, width = images.shape[1:3]
    top, left, bottom, right = (boxes[:, i, None] for i in range(4))
    rows, columns = ops.arange(height), ops.arange(width)
    rows = (rows >= top) & (rows < bottom)
    columns = (columns >= left) & (columns < right)
    return (rows[:, :, None] & columns[:, None, :])[..., None]
