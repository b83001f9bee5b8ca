"""What segmentation is trained by: the loss of pixels, over one or two heads."""

import keras
from keras import ops

from ..data.segmentation.pairs import IGNORED


@keras.saving.register_keras_serializable(package="keras_cbvit")
class PixelCrossEntropy(keras.losses.Loss):
    """Cross-entropy of the pixels that count, in nats.

    Called on labels of shape `(batch, height, width)`, integers, `IGNORED` where a
    pixel does not count, and logits of shape `(batch, height, width, classes)`; logits
    of another height and width, as of an auxiliary head, are brought to those of the
    labels, bilinear. Each image's loss is the sum over its pixels that count, divided
    by the number of all its pixels. Weighted as `TrainingCrops` weights them, the
    images' mean is the mean over the pixels of the batch that count.
    """

    def __init__(self, name="pixel_cross_entropy", **options):
        super().__init__(name=name, **options)

    def call(self, y_true, y_pred):
        """The loss of each image, float32 of shape `(batch,)`."""
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
    """A functional model's layers; `fit` takes `TrainingCrops`.

    Of several outputs each has the same labels, which are on the device once. What the
    model computes, its weights and their names stay the same.
    """

    def __init__(self, model):
        super().__init__(model.input, model.output, name=model.name)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **options):
        y = keras.tree.map_structure(lambda _: y, y_pred)
        return super().compute_loss(x, y, y_pred, sample_weight, **options)
