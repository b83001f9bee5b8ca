"""A model that mixes its training batches: mixup and CutMix."""

import keras
from keras import ops


class MixingModel(keras.Model):
    """A functional model's layers; `fit` takes `recipes.data.batches.TrainingBatches`.

    Mixing is part of the compiled training step. What the model computes, its weights
    and their names stay the same.
    """

    def __init__(self, model):
        super().__init__(model.input, model.output, name=model.name)

    def train_step(self, *arguments):
        # JAX: state and data, the others: data.
        *state, (batch, labels) = arguments
        return super().train_step(*state, mix(batch, labels))


def mix(batch, labels):
    """Blends each image with its partner (mixup) or pastes a box of it (CutMix).

    The partner of an image is the one as far from the other end of the batch.

    Args:
        batch: dict of `"images"`, of shape `(batch, height, width, 3)`, and, to mix
            them, what `recipes.data.draws.mix` draws, a row for each image: `"share"`
            and `"weight"`, of shape `(batch,)`, and `"paste"`, the box, `(batch, 4)`.
        labels: probabilities of the classes, of shape `(batch, classes)`.

    Returns:
        float32 images, and the mixed labels.
    """
    batch = {name: ops.convert_to_tensor(value) for name, value in batch.items()}
    images = ops.cast(batch["images"], "float32")
    if "share" not in batch:
        return images, labels
    inside = _inside(batch["paste"], images)
    weight = ops.where(inside, 0.0, batch["weight"][:, None, None, None])
    images = weight * images + (1 - weight) * ops.flip(images, axis=0)
    share, labels = batch["share"][:, None], ops.convert_to_tensor(labels)
    return images, share * labels + (1 - share) * ops.flip(labels, axis=0)


def _inside(boxes, images):
    """Whether a pixel is in its image's box (top, left, bottom, right)."""
    height, width = images.shape[1:3]
    top, left, bottom, right = (boxes[:, i, None] for i in range(4))
    rows, columns = ops.arange(height), ops.arange(width)
    rows = (rows >= top) & (rows < bottom)
    columns = (columns >= left) & (columns < right)
    return (rows[:, :, None] & columns[:, None, :])[..., None]
