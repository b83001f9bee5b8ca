"""Splits of a data set, in memory or decoded on access."""

import copy
import dataclasses
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from keras_cbvit.images import BrokenImageError, decode, fit

from .fingerprints import fingerprint, image_marks

# Images are kept in memory up to this size; larger sets are decoded on each access.
MEMORY_BYTES = 2 << 30


@dataclasses.dataclass(frozen=True)
class Split:
    """A sequence of uint8 images of shape `(height, width, 3)` with their labels."""

    images: Sequence | np.ndarray
    labels: np.ndarray
    """Classes, int64 of shape `(images,)`, or bool of shape `(images, classes)` for
    multi-label data."""
    broken: int = 0
    """Number of images that were skipped because they cannot be decoded."""
    listed: dict | None = None
    """Fingerprint that includes the skipped images, if known."""
    name: Callable[[int], str] = "image {}".format
    """Function from the index of an image to its name."""

    def __len__(self):
        return len(self.labels)

    def first(self, number):
        """Returns the split of the first images, at most `number`."""
        labels = self.labels[:number]
        if isinstance(self.images, Images):
            return self.images.first(number).split(labels)
        images = np.asarray(self.images[:number])
        return Split(images, labels, self.broken, name=self.name)

    def fingerprint(self):
        """Returns the fingerprint of the images; see `recipes.data.fingerprints`."""
        if self.listed is not None:
            return self.listed
        if isinstance(self.images, Images):
            return self.images.fingerprint(self.labels)
        marks = image_marks(self.images, range(len(self)))
        return fingerprint(marks, self.labels)


class Images(Sequence):
    """Images that are decoded and resized on access."""

    def __init__(self, encoded, data, name="image {}".format, originals=False):
        """Initializes the images with the size in `data`.

        Args:
            encoded: a sequence of paths, of encoded bytes or of uint8 arrays.
            data: a `recipes.options.classification.Data`, or a multi-label one.
            name: function from index to the name of the image in messages.
            originals: whether to keep the original images, for random crops.
        """
        if not 0 < data.crop_fraction <= 1:
            raise ValueError(
                f"crop_fraction={data.crop_fraction} must be above 0 and at most 1."
            )
        self.encoded = encoded
        self.strict = data.strict
        self.name = name
        self.originals = originals
        self.size = data.image_size
        self.crop_fraction = data.crop_fraction
        self.indices = range(len(encoded))

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        return fit(self.open(index), self.size, self.crop_fraction)

    def open(self, index):
        """Decodes an image to a `PIL.Image` in RGB at its original size.

        Raises:
            BrokenImageError: if the image cannot be decoded.
            OSError: if the file cannot be read.
        """
        index = self.indices[index]
        return decode(self.encoded[index], self.name(index))

    def first(self, number):
        """Returns the first images, at most `number`."""
        images = copy.copy(self)
        images.indices = self.indices[:number]
        return images

    def split(self, labels):
        """Returns the split of these images.

        Images that fit into `MEMORY_BYTES` are decoded into one array, skipping those
        that cannot be decoded.
        """
        height, width = self.size
        if self.originals or len(self) * height * width * 3 > MEMORY_BYTES:
            return Split(self, labels, name=_select_names(self.name, self.indices))
        images = np.empty((len(self), height, width, 3), "uint8")
        good, broken = [], []
        for index in range(len(self)):
            try:
                images[len(good)] = self[index]
                good.append(index)
            except BrokenImageError as error:
                # If no image can be decoded, something else is wrong.
                if self.strict or len(broken) == len(self) - 1:
                    raise
                broken.append(error)
        listed = self.fingerprint(labels, len(broken))
        if not broken:
            name = _select_names(self.name, self.indices)
            return Split(images, labels, listed=listed, name=name)
        shown = " ".join(str(error) for error in broken[:5])
        more = " …" if len(broken) > 5 else ""
        warnings.warn(
            f"Skipped {len(broken)} of {len(self)} images: {shown}{more}",
            stacklevel=2,
        )
        name = _select_names(self.name, [self.indices[index] for index in good])
        return Split(images[: len(good)], labels[good], len(broken), listed, name)

    def fingerprint(self, labels, left_out=0):
        """Returns the fingerprint of these images with their labels."""
        marks = image_marks(self.encoded, self.indices)
        return fingerprint(marks, labels, left_out)


def _select_names(name, indices):
    """The names of some images; it does not keep the images themselves."""
    return lambda index: name(indices[index])
