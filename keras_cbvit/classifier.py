"""One call from images to the names of their classes."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_cbvit import backend
from keras_cbvit.arguments import (
    flag,
    items,
    number,
    number_between,
    refuse,
    two_whole_numbers,
    whole_number,
)
from keras_cbvit.classes import check_names
from keras_cbvit.images import INTERPOLATIONS, name_of, preprocess
from keras_cbvit.models.inference import patch_size_of
from keras_cbvit.models.logits import gives_logits
from keras_cbvit.models.segmentation import SegmentationModel
from keras_cbvit.models.vision_transformer import VisionTransformer
from keras_cbvit.pretrained import loading, predictions
from keras_cbvit.pretrained.publishing import preprocessing_of
from keras_cbvit.pretrained.records import Preprocessing

Named: TypeAlias = list[tuple[str, float]]
"""`(class name, probability)`, the most probable class first."""


class Classifier:
    """A classifier of images as people have them: files, arrays, `PIL.Image`s.

    ::

        classifier = keras_cbvit.Classifier("vitcb_mini.cifar10")
        classifier("cat.jpg", top=2)  # [("cat", 0.61), ("dog", 0.22)]

    An image is decoded, turned upright, laid over white where it is transparent,
    cropped and resized by Pillow, as the recipes do it for evaluation. Threads may
    share a classifier.

    Args:
        model: what `load_model` takes, such as the name of published weights, a handle
            or the path of a file; or a Keras model of images of 3 channels that gives
            `(batch, classes)`, logits or probabilities.
        class_names: names of the classes in the order of the predictions; those of
            the model if not given.
        preprocessing: how an image becomes an input of the model. If not given, that of
            the record of published weights; for other models, the size of their images
            without a crop, and what a `VisionTransformer` does not normalize itself is
            normalized.

    Attributes:
        model: the Keras model.
        class_names: a tuple of names.
        preprocessing: the `Preprocessing`.

    Raises:
        ValueError: as `load_model`; if the model is no classifier of images of 3
            channels, does not know its classes, or takes images of any size and
            `preprocessing` has none; or if `preprocessing` cannot work.
        OSError: as `load_model`.
    """

    def __init__(
        self,
        model: Any,
        *,
        class_names: Sequence[str] | None = None,
        preprocessing: Preprocessing | None = None,
    ):
        record = None
        if not isinstance(model, keras.Model):
            model, record = loading.load_with_record(model)
        _check_classifier(model)
        self.model = model
        if class_names is None:
            self.class_names = tuple(predictions.class_names(model))
        else:
            self.class_names = check_names(class_names, model.output_shape[1])
        if preprocessing is None and record is not None:
            preprocessing = record.preprocessing
        if preprocessing is None:
            preprocessing = preprocessing_of(model)
        self.preprocessing = _checked(preprocessing, model)
        self._predict = backend.predictor(model)
        self._gives_logits = gives_logits(model)

    def __call__(
        self, images: Any, top: int = 5, batch_size: int = 32
    ) -> Named | list[Named]:
        """Names the most probable classes of images.

        Args:
            images: one image or a list of images, of any sizes: paths, encoded bytes,
                `PIL.Image`s of any mode, or arrays of shape `(height, width, 3)` of
                values 0-255; or an array of images.
            top: how many classes to name; at most all of them are.
            batch_size: how many images the model gets at once.

        Returns:
            For one image a list of `(class name, probability)`, the most probable
            first; for several, a list of such lists.

        Raises:
            BrokenImageError: a ValueError that names the image that cannot be decoded.
            ValueError: if there are no images, or on another argument.
            OSError: if a file cannot be read.
        """
        top = whole_number("top", top)
        batch_size = whole_number("batch_size", batch_size)
        is_array = isinstance(images, np.ndarray)
        are_several = images.ndim == 4 if is_array else isinstance(images, list | tuple)
        given = images if are_several else [images]
        if not len(given):
            raise ValueError("There are no images to classify: the list is empty.")
        found = []
        for start in range(0, len(given), batch_size):
            some = enumerate(given[start : start + batch_size], start)
            batch = [
                self.preprocess(each, f"Image {i}" if are_several else "The image")
                for i, each in some
            ]
            found.append(self.probabilities(np.stack(batch), batch_size))
        named = predictions.decode_predictions(
            np.concatenate(found), self.class_names, top
        )
        return named if are_several else named[0]

    def preprocess(self, image: Any, name: str = "The image") -> np.ndarray:
        """An image as the model takes it.

        Args:
            image: one image, as of a call.
            name: what messages call an image that is not a path.

        Returns:
            An array of shape `(height, width, 3)`: uint8, or float32 where the model
            does not normalize.

        Raises:
            BrokenImageError: if it cannot be decoded.
            OSError: if its file cannot be read.
        """
        return preprocess(image, self.preprocessing, name_of(image, name))

    def probabilities(self, batch: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """The probabilities of the classes of images that are preprocessed.

        Args:
            batch: an array of what `preprocess` gives, at least one image.
            batch_size: the largest batch that there will be.

        Returns:
            A float array of shape `(images, classes)`.
        """
        size = backend.size_to_compile(len(batch), batch_size)
        # Copies of the images fill it up.
        found = self._predict(np.resize(batch, (size, *batch.shape[1:])))[: len(batch)]
        if not self._gives_logits:
            return found
        found = np.exp(found - found.max(axis=1, keepdims=True))
        return found / found.sum(axis=1, keepdims=True)


def _check_classifier(model):
    if isinstance(model, SegmentationModel):
        raise ValueError(
            f"{model.name} classifies the pixels of an image, not the image; call "
            "keras_cbvit.predict_whole(model, images)."
        )
    shape = getattr(model, "input_shape", None)  # of one that is built
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] != 3:
        raise ValueError(
            f"{model.name} takes inputs of shape {shape}, but images are of shape "
            "(batch, height, width, 3) here: red, green and blue."
        )
    if isinstance(model, VisionTransformer) and model.num_classes is None:
        raise ValueError(
            f"{model.name} has no classification head, so it gives features; call "
            "model.features(images)."
        )
    shape = model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 2 or (shape[1] or 0) < 2:
        raise ValueError(
            f"{model.name} gives {shape}, not predictions of shape (batch, classes) "
            "for two or more classes."
        )


def _checked(how, model) -> Any:
    """A `Preprocessing` that says all, and fits the model."""
    if not isinstance(how, Preprocessing):
        refuse("preprocessing", how, "must be a keras_cbvit.Preprocessing.")
    if not 0 < number("crop_fraction", how.crop_fraction) <= 1:
        refuse("crop_fraction", how.crop_fraction, "must be more than 0, at most 1.")
    if how.interpolation not in INTERPOLATIONS:
        known = ", ".join(INTERPOLATIONS)
        refuse("interpolation", how.interpolation, f"must be one of {known}.")
    _check_normalization(how, model)
    return dataclasses.replace(how, image_size=_image_size(how, model))


def _image_size(how, model):
    """The height and width of a model's images."""
    sides, size = model.input_shape[1:3], how.image_size
    if size is None and None in sides and isinstance(model, VisionTransformer):
        size = [side * model.spec.patch_size for side in model.spec.grid]
    elif size is None:
        size = sides
    if size is sides and None in sides:
        raise ValueError(
            f"{model.name} takes images of any size; say which, for instance by "
            "preprocessing=keras_cbvit.Preprocessing(image_size=[224, 224])."
        )
    size = [*two_whole_numbers("image_size", size)]
    if any(side not in (None, new) for side, new in zip(sides, size, strict=True)):
        refuse("image_size", size, f"is not that of {model.name}, {sides}.")
    patch = patch_size_of(model) or 1
    if None in sides and any(side % patch for side in size):
        refuse("image_size", size, f"must be multiples of {patch}, the patch size.")
    return size


def _check_normalization(how, model):
    """Raises a ValueError unless images are normalized exactly once."""
    normalized = flag("normalized", how.normalized)
    if isinstance(model, VisionTransformer):
        if model.spec.include_preprocessing and not normalized:
            refuse("normalized", False, f"is wrong: {model.name} normalizes images.")
        if normalized and not model.spec.include_preprocessing:
            refuse(
                "normalized",
                True,
                f"is wrong: {model.name} does not normalize images; give "
                "normalized=False, the mean and the std.",
            )
    if normalized:
        return
    for name, check in (("mean", number), ("std", number_between(1e-3))):
        values = items(getattr(how, name))
        if values is None or len(values) != 3:
            refuse(name, getattr(how, name), "must be of red, green and blue.")
        for value in values:
            check(name, value)
