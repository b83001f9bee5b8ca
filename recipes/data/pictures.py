"""Images by index: kept in memory, or decoded when they are asked for."""

import copy
import dataclasses
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from keras_cbvit.images import BrokenImageError, decode, fit

from .fingerprints import fingerprint, marks_of

# Decoded images are kept up to this size, larger sets are decoded at each use.
MEMORY_BYTES = 2 << 30


@dataclasses.dataclass(frozen=True)
class Split:
    """Images of shape `(height, width, 3)`, uint8, by index, with their labels."""

    images: Sequence | np.ndarray
    labels: np.ndarray
    """Classes, int64; if several may be right, bool of shape `(images, classes)`."""
    broken: int = 0
    """How many images were left out because they cannot be decoded."""
    listed: dict | None = None
    """The fingerprint with those that were left out, if it is known."""
    name: Callable[[int], str] = "image {}".format
    """A function from the index to what an image is called."""

    def __len__(self):
        return len(self.labels)

    def first(self, number):
        """The first so many images, at most all."""
        labels = self.labels[:number]
        if isinstance(self.images, Pictures):
            return self.images.first(number).split(labels)
        images = np.asarray(self.images[:number])
        return Split(images, labels, self.broken, name=self.name)

    def fingerprint(self):
        """What tells these images from others; see `recipes.data.fingerprints`."""
        if self.listed is not None:
            return self.listed
        if isinstance(self.images, Pictures):
            return self.images.fingerprint(self.labels)
        marks = marks_of(self.images, range(len(self)))
        return fingerprint(marks, self.labels)


class Pictures(Sequence):
    """Images that are decoded and brought to one size when they are asked for."""

    def __init__(self, encoded, data, name="image {}".format, originals=False):
        """Pictures of a size that `data` tells.

        Args:
            encoded: a sequence of paths, of encoded bytes or of uint8 arrays.
            data: a `recipes.options.classification.Data`, or a multi-label one.
            name: a function from the index to what messages call the picture.
            originals: whether the pictures stay as they are, for random crops.
        """
        if not 0 < data.crop_fraction <= 1:
            raise ValueError(
                f"crop_fraction={data.crop_fraction} must be more than 0 and at most 1."
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
        """The decoded picture, a `PIL.Image` in RGB of its own size.

        Raises:
            BrokenImageError: if it cannot be decoded.
            OSError: if its file cannot be read.
        """
        index = self.indices[index]
        return decode(self.encoded[index], self.name(index))

    def first(self, number):
        """The first so many pictures, at most all."""
        pictures = copy.copy(self)
        pictures.indices = self.indices[:number]
        return pictures

    def split(self, labels):
        """The split of these images.

        If `MEMORY_BYTES` are enough, they are kept in one array, without those that
        cannot be decoded.
        """
        height, width = self.size
        if self.originals or len(self) * height * width * 3 > MEMORY_BYTES:
            return Split(self, labels, name=_named(self.name, self.indices))
        images = np.empty((len(self), height, width, 3), "uint8")
        good, broken = [], []
        for index in range(len(self)):
            try:
                images[len(good)] = self[index]
                good.append(index)
            except BrokenImageError as error:
                # Not one of them readable is a mistake elsewhere.
                if self.strict or len(broken) == len(self) - 1:
                    raise
                broken.append(error)
        listed = self.fingerprint(labels, len(broken))
        if not broken:
            name = _named(self.name, self.indices)
            return Split(images, labels, listed=listed, name=name)
        shown = " ".join(str(error) for error in broken[:5])
        more = " …" if len(broken) > 5 else ""
        warnings.warn(
            f"{len(broken)} of {len(self)} images are left out: {shown}{more}",
            stacklevel=2,
        )
        name = _named(self.name, [self.indices[index] for index in good])
        return Split(images[: len(good)], labels[good], len(broken), listed, name)

    def fingerprint(self, labels, left_out=0):
        """What tells these images, with their labels, from others."""
        marks = marks_of(self.encoded, self.indices)
        return fingerprint(marks, labels, left_out)


def _named(name, indices):
    """The names of some images; it does not keep the images themselves."""
    return lambda index: name(indices[index])
