"""Classifies images and names their classes."""

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
    """Classifies images given as files, bytes, arrays or `PIL.Image`s.

    ::

        classifier = keras_cbvit.Classifier("vitcb_mini.cifar10")
        classifier("cat.jpg", top=2)  # [("cat", 0.61), ("dog", 0.22)]

    Pillow decodes each image, applies its EXIF orientation, blends transparency with
    white, crops and resizes, as the recipes do for evaluation. A classifier can be
    shared between threads.

    Args:
        model: anything `load_model` takes, such as the name of published weights, a
            handle or the path of a file; or a Keras model from images of 3 channels to
            `(batch, classes)`, logits or probabilities.
        class_names: names of the classes in the order of the predictions. Defaults to
            those of the model.
        preprocessing: preprocessing of the images. Defaults to that of the record of
            published weights; for other models, to a resize to their image size
            without a crop, with normalization if a `VisionTransformer` does not
            normalize.

    Attributes:
        model: the Keras model.
        class_names: a tuple of names.
        preprocessing: the `Preprocessing`.

    Raises:
        ValueError: as `load_model`; if the model is not a classifier of images of 3
            channels or has no class names; if `preprocessing` is invalid, or has no
            image size for a model of any size.
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
        self.preprocessing = _complete_preprocessing(preprocessing, model)
        self._predict = backend.predictor(model)
        self._gives_logits = gives_logits(model)

    def __call__(
        self, images: Any, top: int = 5, batch_size: int = 32
    ) -> Named | list[Named]:
        """Returns the most probable classes of images.

        Args:
            images: one image or a list of images of any sizes: paths, encoded bytes,
                `PIL.Image`s of any mode, or arrays of shape `(height, width, 3)` with
                values 0-255; or an array of images.
            top: number of classes to return per image, or all if there are fewer.
            batch_size: number of images per batch.

        Returns:
            For one image, a list of `(class name, probability)`, the most probable
            first; for several images, a list of such lists.

        Raises:
            BrokenImageError: a ValueError that names an image that cannot be decoded.
            ValueError: if the list is empty or an argument is invalid.
            OSError: if a file cannot be read.
        """
        top = whole_number("top", top)
        batch_size = whole_number("batch_size", batch_size)
        is_array = isinstance(images, np.ndarray)
        are_several = images.ndim == 4 if is_array else isinstance(images, list | tuple)
        given = images if are_several else [images]
        if not len(given):
            raise ValueError("images is empty; pass at least one image.")
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
        """Preprocesses an image for the model.

        Args:
            image: one image, as for a call.
            name: name of the image in error messages, if it is not a path.

        Returns:
            An array of shape `(height, width, 3)`: uint8, or float32 where the model
            does not normalize.

        Raises:
            BrokenImageError: if the image cannot be decoded.
            OSError: if its file cannot be read.
        """
        return preprocess(image, self.preprocessing, name_of(image, name))

    def probabilities(self, batch: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Predicts class probabilities of preprocessed images.

        Args:
            batch: one or more images from `preprocess`, stacked.
            batch_size: the largest batch of all calls; limits recompilation.

        Returns:
            A float array of shape `(images, classes)`.
        """
        size = backend.size_to_compile(len(batch), batch_size)
        # Pads the batch with copies of its images.
        found = self._predict(np.resize(batch, (size, *batch.shape[1:])))[: len(batch)]
        if not self._gives_logits:
            return found
        found = np.exp(found - found.max(axis=1, keepdims=True))
        return found / found.sum(axis=1, keepdims=True)


def _check_classifier(model):
    if isinstance(model, SegmentationModel):
        raise ValueError(
            f"{model.name} is a segmentation model, not a classifier; call "
            "keras_cbvit.predict_whole(model, images)."
        )
    shape = getattr(model, "input_shape", None)  # None before it is built
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] != 3:
        raise ValueError(
            f"{model.name} takes inputs of shape {shape}; Classifier requires RGB "
            "images of shape (batch, height, width, 3)."
        )
    if isinstance(model, VisionTransformer) and model.num_classes is None:
        raise ValueError(
            f"{model.name} has no classification head; for its features call "
            "model.features(images)."
        )
    shape = model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 2 or (shape[1] or 0) < 2:
        raise ValueError(
            f"{model.name} has outputs of shape {shape}; Classifier requires (batch, "
            "classes) with two or more classes."
        )


def _complete_preprocessing(given, model) -> Any:
    """Validates a `Preprocessing` for the model and sets its image size."""
    if not isinstance(given, Preprocessing):
        refuse("preprocessing", given, "must be a keras_cbvit.Preprocessing.")
    if not 0 < number("crop_fraction", given.crop_fraction) <= 1:
        refuse(
            "crop_fraction", given.crop_fraction, "must be more than 0 and at most 1."
        )
    if given.interpolation not in INTERPOLATIONS:
        known = ", ".join(INTERPOLATIONS)
        refuse("interpolation", given.interpolation, f"must be one of {known}.")
    _check_normalization(given, model)
    return dataclasses.replace(given, image_size=_image_size(given, model))


def _image_size(given, model):
    """Returns the height and width to resize images to."""
    sides, size = model.input_shape[1:3], given.image_size
    if size is None and None in sides and isinstance(model, VisionTransformer):
        size = [side * model.spec.patch_size for side in model.spec.grid]
    elif size is None:
        size = sides
    if size is sides and None in sides:
        raise ValueError(
            f"{model.name} takes images of any size; set one, for instance with "
            "preprocessing=keras_cbvit.Preprocessing(image_size=[224, 224])."
        )
    size = [*two_whole_numbers("image_size", size)]
    if any(side not in (None, new) for side, new in zip(sides, size, strict=True)):
        refuse("image_size", size, f"must be that of {model.name}, {sides}.")
    patch = patch_size_of(model) or 1
    if None in sides and any(side % patch for side in size):
        refuse("image_size", size, f"must be multiples of {patch}, the patch size.")
    return size


def _check_normalization(given, model):
    """Raises a ValueError unless images are normalized exactly once."""
    normalized = flag("model_normalizes", given.model_normalizes)
    if isinstance(model, VisionTransformer):
        if model.spec.include_preprocessing and not normalized:
            refuse(
                "model_normalizes",
                False,
                f"must be True: {model.name} normalizes images.",
            )
        if normalized and not model.spec.include_preprocessing:
            refuse(
                "model_normalizes",
                True,
                f"must be False, with mean and std: {model.name} does not normalize "
                "images.",
            )
    if normalized:
        return
    for name, check in (("mean", number), ("std", number_between(1e-3))):
        values = items(getattr(given, name))
        if values is None or len(values) != 3:
            refuse(name, getattr(given, name), "must have 3 numbers, for RGB.")
        for value in values:
            check(name, value)
