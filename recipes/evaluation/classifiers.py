"""Any Keras classifier as a model of images 0-255 with known classes."""

import dataclasses

import keras

import keras_cbvit
from keras_cbvit.models.spec import IMAGENET_MEAN, IMAGENET_STD

# What models take for the pixel values 0-255: scale and offset of each channel.
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
    """A model, and what it is called."""

    name: str
    model: keras.Model
    """Takes images of values 0-255 of shape `(batch, height, width, 3)`."""
    class_names: tuple[str, ...] | None
    """In the order of its predictions, if known."""

    @property
    def image_size(self):
        """Height and width."""
        return self.model.input_shape[1:3]

    @property
    def classes(self):
        """How many there are."""
        return self.model.output_shape[-1]


def as_classifier(name, model, normalize="none", image_size=None):
    """A model of images 0-255 as a `Classifier`.

    Args:
        name: what it was loaded by.
        model: the model.
        normalize: what to do with images for a model that does not normalize them, of
            another package or with `include_preprocessing=False`: "none" if it takes
            values 0-255; "unit" for 0 to 1; "symmetric" for -1 to 1; "imagenet" for
            ImageNet's mean and standard deviation of each channel; "caffe" for BGR
            without the mean. It becomes a part of the model, so that attacks go
            through it. Models of this package that normalize images themselves stay as
            they are.
        image_size: height and width for a model that takes any.

    Raises:
        ValueError: if it is not a classifier of images.
    """
    names = getattr(model, "class_names", None)
    return Classifier(name, _of_pixels(name, model, normalize, image_size), names)


def size_of(name, model, image_size):
    """Height and width of a model's images; of one that takes any, `image_size`.

    Raises:
        ValueError: if neither says it.
    """
    size = tuple(
        asked if side is None else side
        for side, asked in zip(
            model.input_shape[1:3], image_size or (None, None), strict=True
        )
    )
    if None in size:
        raise ValueError(f"{name} takes images of any size; give --image-size.")
    return size


def _of_pixels(name, model, normalize, image_size):
    """A model of images 0-255, from one that takes them as `normalize` says."""
    is_ours = isinstance(model, keras_cbvit.VisionTransformer)
    if is_ours and model.spec.include_preprocessing:
        normalize = "none"  # it is meant for the models beside it
        if None not in model.input_shape:
            return model
    found = of_pixels(name, model, normalize, image_size)
    outputs = found.output
    if not hasattr(outputs, "shape") or len(outputs.shape) != 2 or outputs.shape[1] < 2:
        gives = getattr(outputs, "shape", "several outputs")
        raise ValueError(
            f"{name} gives {gives}, not predictions of shape (batch, classes) for two "
            "or more classes."
        )
    return found


def of_pixels(name, model, normalize, image_size):
    """A model of images 0-255 that does to them what `normalize` says.

    Args:
        name: what messages call the model.
        model: of images, whatever it gives.
        normalize, image_size: see `as_classifier`.

    Raises:
        ValueError: if it does not take images.
    """
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] != 3:
        raise ValueError(
            f"{name} takes {shape}, not images of shape (batch, height, width, 3)."
        )
    images = keras.Input((*size_of(name, model, image_size), 3))
    x = images
    if normalize != "none":
        if normalize == "caffe":
            x = keras.ops.flip(x, axis=-1)  # BGR
        x = keras.layers.Rescaling(*NORMALIZATIONS[normalize])(x)
    return keras.Model(images, model(x))
