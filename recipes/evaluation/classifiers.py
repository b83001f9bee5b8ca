"""Wraps any Keras classifier as a model of images with values 0-255."""

import dataclasses

import keras

import keras_cbvit
from keras_cbvit.models.spec import IMAGENET_MEAN, IMAGENET_STD

# Scale and offset of each channel, from pixel values 0-255 to the model's inputs.
NORMALIZATIONS = {
    "unit": (1 / 255, 0.0),
    "symmetric": (1 / 127.5, -1.0),
    "imagenet": (
        [1 / (255 * std) for std in IMAGENET_STD],
        [-m / std for m, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)],
    ),
    "caffe": (1.0, [-103.939, -116.779, -123.68]),
}


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A classifier with its name and class names."""

    name: str
    model: keras.Model
    """Takes images of values 0-255 of shape `(batch, height, width, 3)`."""
    class_names: tuple[str, ...] | None
    """Class names in the order of the predictions; `None` if unknown."""

    @property
    def image_size(self):
        """Height and width of the images."""
        return self.model.input_shape[1:3]

    @property
    def classes(self):
        """Number of classes."""
        return self.model.output_shape[-1]


def as_classifier(name, model, normalize="none", image_size=None):
    """Wraps a model as a `Classifier` of images with values 0-255.

    Args:
        name: name that the model was loaded by.
        model: Keras classifier.
        normalize: normalization for a model that does not normalize images itself, from
            another package or with `include_preprocessing=False`: "none" for values
            0-255; "unit" for 0 to 1; "symmetric" for -1 to 1; "imagenet" for ImageNet's
            mean and standard deviation per channel; "caffe" for BGR minus the mean. It
            becomes part of the model, so attacks pass through it. It is ignored for
            models of this package that normalize images themselves.
        image_size: height and width for a model of variable image size.

    Raises:
        ValueError: if the model is not an image classifier.
    """
    names = getattr(model, "class_names", None)
    return Classifier(name, _of_pixels(name, model, normalize, image_size), names)


def size_of(name, model, image_size):
    """Returns height and width of a model's images, `image_size` where variable.

    Raises:
        ValueError: if the size is variable and `image_size` is not given.
    """
    size = tuple(
        asked if side is None else side
        for side, asked in zip(
            model.input_shape[1:3], image_size or (None, None), strict=True
        )
    )
    if None in size:
        raise ValueError(f"{name} takes images of any size; set --image-size.")
    return size


def _of_pixels(name, model, normalize, image_size):
    """Wraps a classifier as a model of images 0-255; see `as_classifier`."""
    is_ours = isinstance(model, keras_cbvit.VisionTransformer)
    if is_ours and model.spec.include_preprocessing:
        normalize = "none"  # applies only to the other models of the command
        if None not in model.input_shape:
            return model
    found = of_pixels(name, model, normalize, image_size)
    outputs = found.output
    if not hasattr(outputs, "shape") or len(outputs.shape) != 2 or outputs.shape[1] < 2:
        gives = getattr(outputs, "shape", "several outputs")
        raise ValueError(
            f"{name} returns {gives}, not predictions of shape (batch, classes) for "
            "two or more classes."
        )
    return found


def of_pixels(name, model, normalize, image_size):
    """Wraps a model so that it takes images with values 0-255.

    Args:
        name: name of the model in error messages.
        model: model that takes images, with any outputs.
        normalize, image_size: see `as_classifier`.

    Raises:
        ValueError: if the model does not take images.
    """
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] != 3:
        raise ValueError(
            f"{name} takes inputs of shape {shape}, not images of shape (batch, "
            "height, width, 3)."
        )
    images = keras.Input((*size_of(name, model, image_size), 3))
    x = images
    if normalize != "none":
        if normalize == "caffe":
            x = keras.ops.flip(x, axis=-1)  # BGR
        x = keras.layers.Rescaling(*NORMALIZATIONS[normalize])(x)
    return keras.Model(images, model(x))
