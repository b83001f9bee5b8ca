"""Images and their segmentation maps, from folders or TFDS, without TensorFlow.

No invalid file is skipped: an unpaired file, an unknown label or a size mismatch is an
error that names the file, since training on the remaining files would give a different
model.
"""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_cbvit.classes import check_names
from keras_cbvit.images import decode, decode_samples

from ..fingerprints import NO_CLASS, fingerprint, image_marks
from ..folders import Contents, MissingDatasetError
from ..records import Records
from ..tfds import UnknownDatasetError, prepare, refuse_float_images

IGNORED = 255
"""The label of ignored pixels, whatever it is in the files."""
_UNKNOWN = 254
LAYOUTS = (
    ("{split}/images", "{split}/labels"),
    ("images/{split}", "annotations/{split}"),
)
"""Folders of a split's images and labels: the general layout and ADE20K's."""
_OF_TFDS = (
    "TFDS's scene_parse150 may contain instance masks of 100 classes; download "
    "ADEChallengeData2016 from http://sceneparsing.csail.mit.edu and use its folder "
    "as --dataset."
)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and test splits with class names."""

    train: "Pairs"
    test: "Pairs"
    class_names: tuple[str, ...]
    description: str


class Pairs(Sequence):
    """Images and their segmentation maps, decoded on access.

    Args:
        images: a sequence of paths, of encoded bytes or of uint8 arrays.
        labels: the same for the labels: PNG files of one channel, whose samples or
            palette indices are used unchanged, whatever their bit depth.
        classes: number of classes, at most 253.
        ignored_label: label of ignored pixels.
        image_name: function from index to the name of the image in messages.
        label_name: the same for its labels.
        advice: advice to append to the error about labels with several channels.
    """

    broken_images = 0  # an image that cannot be decoded is an error

    def __init__(
        self,
        images,
        labels,
        classes,
        ignored_label,
        image_name,
        label_name,
        advice="",
    ):
        self.images = images
        self.labels = labels
        self.classes = classes
        self.image_name = image_name
        self.label_name = label_name
        self.advice = advice
        self.indices = range(len(images))
        self.table = class_of_label(classes, ignored_label)

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        """Decodes an image and its labels.

        Returns:
            A `PIL.Image` in RGB, and a uint8 array of classes of shape
            `(height, width)`, `IGNORED` for ignored pixels.

        Raises:
            ValueError: if one of the two cannot be decoded (`BrokenImageError`), their
                sizes differ, or a label is unknown.
        """
        labels = self._labels(index)
        index = self.indices[index]
        image = decode(self.images[index], self.image_name(index))
        name = self.label_name(index)
        height, width = labels.shape
        if image.size != (width, height):
            raise ValueError(
                f"{self.image_name(index)} has {image.width}x{image.height} pixels, "
                f"but its labels {name} have {width}x{height}; the sizes must match, "
                "after applying the image's EXIF orientation."
            )
        return image, self.table[labels]

    def label_counts(self, index):
        """Counts the pixels of each label of 0–255, without decoding the image.

        Raises:
            ValueError: if the labels cannot be decoded, or a label is unknown.
        """
        return np.bincount(self._labels(index).ravel(), minlength=256)

    def _labels(self, index):
        """Decodes the labels of an image, unchanged, and checks that all are known."""
        index = self.indices[index]
        name = self.label_name(index)
        labels = decode_samples(self.labels[index], name)
        labels = _one_channel(labels, name, self.advice)
        unknown = self.table[labels] == _UNKNOWN
        if unknown.any():
            found = np.unique(labels[unknown]).tolist()
            known = np.flatnonzero(self.table < self.classes)
            ignored = np.flatnonzero(self.table == IGNORED)[0]
            raise ValueError(
                f"{name} has the unknown labels {', '.join(map(str, found[:5]))}; the "
                f"{len(known)} classes have the labels {known[0]} to {known[-1]}, and "
                f"{ignored} is ignored. To train with other classes, set --class-names "
                "and --ignored-label."
            )
        return labels

    def fingerprint(self):
        """Returns the fingerprint of the pairs; see `recipes.data.fingerprints`."""
        marks = (image_marks(each, self.indices) for each in (self.images, self.labels))
        pairs = (b"\n".join(pair) for pair in zip(*marks, strict=True))
        return fingerprint(pairs, np.full(len(self), NO_CLASS))

    def first(self, number):
        """Returns the first pairs, at most `number`."""
        return self._of(self.indices[:number])

    def spread(self, number):
        """Returns at most `number` pairs, taken at even intervals."""
        places = np.linspace(0, len(self) - 1, min(number, len(self)))
        return self._of([self.indices[place] for place in places.round().astype(int)])

    def _of(self, indices):
        pairs = copy.copy(self)
        pairs.indices = indices
        return pairs

    def renumber(self, numbers, classes):
        """Returns the same pairs with renumbered classes.

        Args:
            numbers: new index of each class, int64 of shape `(classes,)`.
            classes: new number of classes, at most 253.
        """
        check_classes(classes)
        pairs = copy.copy(self)
        pairs.classes = classes
        pairs.table = self.table.copy()
        is_class = self.table < self.classes
        pairs.table[is_class] = numbers[self.table[is_class]]
        return pairs


def class_of_label(classes, ignored_label):
    """Returns the class of each label of 0–255, as a uint8 table.

    Labels above the ignored label are shifted down by one.
    """
    check_classes(classes)
    if not 0 <= ignored_label <= 255:
        raise ValueError(f"ignored_label={ignored_label} must be between 0 and 255.")
    labels = np.arange(256)
    numbers = labels - (labels > ignored_label)
    table = np.where(numbers < classes, numbers, _UNKNOWN)
    table[ignored_label] = IGNORED
    return table.astype("uint8")


def check_classes(number):
    """Raises a ValueError if 8-bit labels cannot represent the number of classes."""
    if not 0 < number < _UNKNOWN:
        raise ValueError(
            f"class_names has {number} names, but 8-bit labels support 1 to "
            f"{_UNKNOWN - 1} classes. Set --class-names."
        )


def _one_channel(labels, name, advice):
    """Checks and returns labels of 0–255; TFDS may repeat their channel three times."""
    if labels.ndim == 3 and (labels == labels[..., :1]).all():
        labels = labels[..., 0]
    if labels.ndim != 2:
        raise ValueError(
            f"{name} has {labels.shape[2]} channels that differ; labels must have one "
            f"channel, with the class of each pixel.{advice and f' {advice}'}"
        )
    if labels.max() > 255:
        raise ValueError(
            f"{name} has the label {labels.max()}; labels must range from 0 to 255, "
            f"with at most {_UNKNOWN - 1} classes."
        )
    return labels


def load_pairs(data):
    """Loads the data set of a `recipes.options.segmentation.Data`.

    Raises:
        MissingDatasetError: if the data set does not exist; the message explains how
            to get it.
        ValueError: if the data set is invalid.
    """
    class_of_label(len(data.class_names), data.ignored_label)
    names = check_names(data.class_names, what="--class-names")
    named = Path(data.dataset).expanduser()
    folder = Path(data.data_dir or ".", named)
    is_of_tfds = any(folder.glob("*/dataset_info.json"))
    is_path = named.is_absolute() or data.dataset.startswith(".")
    if is_path or (folder.is_dir() and not is_of_tfds):
        train, test = _folder(data, folder)
        description = folder.name
    else:
        try:
            builder = prepare(data, data.train_split, data.test_split)
        except UnknownDatasetError as error:
            raise MissingDatasetError(
                f"The folder {folder.absolute()} does not exist, and TFDS has no data "
                f"set {data.dataset!r}. Set --dataset (--on of recipes.evaluate) to "
                "the path of a folder, or to its name and --data-dir to its parent "
                "folder."
            ) from error
        train, test = (
            _tfds(data, builder, split) for split in (data.train_split, data.test_split)
        )
        description = f"{data.dataset} (TFDS {builder.info.version})"
    return Dataset(train, test, names, description)


def _folder(data, folder):
    """Returns the training and test pairs in a folder with one of the `LAYOUTS`."""
    splits = data.train_split, data.test_split
    places = [_places(folder, split) for split in splits]
    # If only one split is requested, the others do not count as unused.
    contents = Contents(*places[0]) if splits[0] == splits[1] else Contents(folder)
    if splits[0] == splits[1]:
        pairs = [_folder_pairs(data, contents, *places[0])] * 2
    else:
        walked = {}  # the splits must not overlap
        pairs = [_folder_pairs(data, contents, *place, walked) for place in places]
    contents.warn()
    return pairs


def _places(folder, split):
    """Returns the folders of a split's images and labels."""
    if not folder.is_dir():
        raise MissingDatasetError(
            f"The folder {folder} does not exist. It must contain {split}/images and "
            f"{split}/labels, or images/{split} and annotations/{split} as in ADE20K, "
            "with labels as PNG files named like the images."
        )
    for places in LAYOUTS:
        images, labels = (folder / place.format(split=split) for place in places)
        if images.is_dir() and labels.is_dir():
            return images, labels
    wanted = " nor ".join(
        " and ".join(place.format(split=split) for place in places)
        for places in LAYOUTS
    )
    found = sorted(p.name for p in folder.iterdir() if p.is_dir())
    raise MissingDatasetError(
        f"{folder} has neither {wanted}; its folders are {', '.join(found)}. Set "
        "--train-split and --test-split."
    )


def _folder_pairs(data, contents, images, labels, walked=None):
    """Returns the pairs of a folder of images and a folder of labels."""
    image_files = _by_stem(images, contents.images_in(images, walked))
    label_files = _by_stem(labels, _masks_in(labels, contents))
    for one, other, place in (
        (image_files, label_files, labels),
        (label_files, image_files, images),
    ):
        alone = sorted(one.keys() - other.keys())
        if alone:
            more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
            raise ValueError(
                f"{one[alone[0]]}{more} has no counterpart {alone[0]}.* in {place}; "
                "labels must be .png files, images of a format that Pillow decodes."
            )
    stems = sorted(image_files)
    images, labels = [image_files[s] for s in stems], [label_files[s] for s in stems]
    return _pairs(data, images, labels, images.__getitem__, labels.__getitem__)


def _masks_in(folder, contents):
    """Returns the paths of labels: PNG files, since JPEG would alter the classes."""
    try:
        found = contents.images_in(folder)
    except MissingDatasetError as error:
        raise MissingDatasetError(f"{error} Labels must be PNG files.") from None
    for path in found:
        if not path.lower().endswith(".png"):
            raise ValueError(
                f"{path} is not a PNG file; labels must be in a lossless format, PNG."
            )
    return found


def _by_stem(folder, paths):
    """Returns a dict from stem to path of the files in a folder."""
    found = {}
    for path in paths:
        stem = str(Path(path).relative_to(folder).with_suffix(""))
        if stem in found:
            raise ValueError(
                f"{found[stem]} and {path} differ only in the extension; remove one."
            )
        found[stem] = path
    return found


def _tfds(data, builder, split):
    """Returns the pairs of a TFDS split with the features image and annotation."""
    missing = {"image", "annotation"} - set(builder.info.features)
    if missing:
        raise ValueError(
            f"{data.dataset} has no {' and no '.join(sorted(missing))}; its features "
            f"are {', '.join(sorted(builder.info.features))}, but segmentation "
            "requires image and annotation."
        )
    refuse_float_images(builder, "image", "annotation")
    images = Records(builder, split, label=None, feature="image")
    labels = images.of("annotation")
    return _pairs(
        data,
        images,
        labels,
        lambda index: f"The image of {images.name(index)}",
        lambda index: f"The annotation of {images.name(index)}",
        _OF_TFDS,
    )


def _pairs(data, images, labels, *texts):
    classes = len(data.class_names)
    return Pairs(images, labels, classes, data.ignored_label, *texts)
