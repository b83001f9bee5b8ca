"""Pixel loss for segmentation models with one or more heads."""

import keras
from keras import ops

from ..data.segmentation.pairs import IGNORED


@keras.saving.register_keras_serializable(package="keras_cbvit")
class PixelCrossEntropy(keras.losses.Loss):
    """Cross-entropy over the labeled pixels, in nats.

    Takes integer labels of shape `(batch, height, width)`, `IGNORED` for unlabeled
    pixels, and logits of shape `(batch, height, width, classes)`. Logits of another
    height and width, such as those of an auxiliary head, are resized to the labels by
    bilinear interpolation. The loss of an image is the sum over its labeled pixels,
    divided by the number of all its pixels. With the sample weights of `TrainingCrops`,
    the mean over the images is the mean over the labeled pixels of the batch.
    """

    def __init__(self, name="pixel_cross_entropy", **options):
        super().__init__(name=name, **options)

    def call(self, y_true, y_pred):
        """Returns the loss of each image, float32 of shape `(batch,)`."""
        labels, logits = ops.cast(y_true, "int32"), ops.cast(y_pred, "float32")
        size = ops.shape(labels)[1:3]
        if tuple(logits.shape[1:3]) != tuple(labels.shape[1:3]):
            logits = ops.image.resize(
                logits, size, "bilinear", data_format="channels_last"
            )
        counts = labels != IGNORED
        losses = ops.sparse_categorical_crossentropy(
            ops.where(counts, labels, 0), logits, from_logits=True
        )
        return ops.mean(ops.where(counts, losses, 0.0), axis=(1, 2))


class Segmenter(keras.Model):
    """A functional model whose outputs all share the same labels.

    `fit` takes `TrainingCrops`. The labels are on the device only once. The outputs,
    weights and weight names are those of the functional model.
    """

    def __init__(self, model):
        super().__init__(model.input, model.output, name=model.name)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **options):
        y = keras.tree.map_structure(lambda _: y, y_pred)
        return super().compute_loss(x, y, y_pred, sample_weight, **options)
