"""A segmentation model: a functional model that knows the names of its classes."""

import keras

from keras_cbvit.models.class_names import HasClassNames
from keras_cbvit.models.signed_weights import SignedWeights


@keras.saving.register_keras_serializable(package="keras_cbvit")
class SegmentationModel(HasClassNames, SignedWeights, keras.Model):
    """A functional model from images to the classes of their pixels.

    `UperNet` builds it. The class adds only `class_names`, which its `.keras` file
    keeps; older files hold a plain functional model, which
    `keras_cbvit.load_model` converts to this class.

    Args:
        inputs: the images, of shape `(batch, height, width, channels)`.
        outputs: the predictions, of shape `(batch, height, width, classes)`.
        name: name of the model.
        **kwargs: `trainable`, and `class_names`, `None` if not known.
    """

    # With the arguments of a functional model, whose configuration Keras writes.
    def __init__(self, inputs, outputs, name=None, **kwargs):
        class_names = kwargs.pop("class_names", None)
        super().__init__(inputs, outputs, name=name, **kwargs)
        self.class_names = class_names

    @property
    def _number_of_classes(self):
        return self.output_shape[-1]

    def get_config(self):
        names = self.class_names and list(self.class_names)
        return {**super().get_config(), "class_names": names}
