"""Images and their labels by index, from folders or from TFDS.

TensorFlow is not needed. Nothing is passed over: a file without its partner, a label
that is no class or another size stops the run with the file's name, since a model
trained on what is left would not be the one that was asked for.
"""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_cbvit.classes import check_names
from keras_cbvit.images import decode, decode_samples

from ..fingerprints import NO_CLASS, fingerprint, marks_of
from ..folders import Contents, MissingDatasetError
from ..records import Records
from ..tfds import UnknownDatasetError, prepared, refuse_float_images

IGNORED = 255
"""What labels of pixels that do not count become, whatever they are in the files."""
_UNKNOWN = 254
LAYOUTS = (
    ("{split}/images", "{split}/labels"),
    ("images/{split}", "annotations/{split}"),
)
"""Where the images of a split and their labels are: any data set's, ADE20K's own."""
_OF_TFDS = (
    "TFDS's scene_parse150 may hold the masks of instances, of 100 classes; download "
    "ADEChallengeData2016 from http://sceneparsing.csail.mit.edu and give its folder "
    "as --dataset."
)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and test images with the names of their classes."""

    train: "Pairs"
    test: "Pairs"
    class_names: tuple[str, ...]
    description: str


class Pairs(Sequence):
    """Images with the class of each pixel, decoded when they are asked for.

    Args:
        images: a sequence of paths, of encoded bytes or of uint8 arrays.
        labels: the same for the labels: PNG files of one channel, whose samples, or
            indices of a palette, are used as they are, whatever their depth.
        classes: how many there are, at most 253.
        ignored_label: the label of pixels that do not count.
        image_name: a function from the index to what messages call the image.
        label_name: the same for its labels.
        advice: a sentence that ends the message on labels of several channels.
    """

    broken_images = 0  # one that cannot be decoded stops the run

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
        """An image and its labels.

        Returns:
            A `PIL.Image` in RGB, and a uint8 array of shape `(height, width)` of
            classes, `IGNORED` where a pixel does not count.

        Raises:
            ValueError: if one of the two cannot be decoded (`BrokenImageError`), they
                are of different sizes, or a label is no class.
        """
        labels = self._labels(index)
        index = self.indices[index]
        image = decode(self.images[index], self.image_name(index))
        name = self.label_name(index)
        height, width = labels.shape
        if image.size != (width, height):
            raise ValueError(
                f"{self.image_name(index)} has {image.width}x{image.height} pixels, "
                f"its labels {name} have {width}x{height}; they must be of one size, "
                "that of the image upright, as its EXIF orientation says."
            )
        return image, self.table[labels]

    def label_counts(self, index):
        """How many pixels of an image have each label of 0–255.

        Raises:
            ValueError: as for the image and its labels, which this does not decode.
        """
        return np.bincount(self._labels(index).ravel(), minlength=256)

    def _labels(self, index):
        """The labels of an image as they are in the file, all of them known."""
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
                f"{name} has the labels {', '.join(map(str, found[:5]))}; the "
                f"{len(known)} classes are {known[0]} to {known[-1]}, and {ignored} "
                "is ignored. A model of other classes is trained with --class-names "
                "and --ignored-label."
            )
        return labels

    def fingerprint(self):
        """What tells these from others; see `recipes.data.fingerprints`."""
        marks = (marks_of(each, self.indices) for each in (self.images, self.labels))
        pairs = (b"\n".join(pair) for pair in zip(*marks, strict=True))
        return fingerprint(pairs, np.full(len(self), NO_CLASS))

    def first(self, number):
        """The first so many images, at most all."""
        return self._of(self.indices[:number])

    def spread(self, number):
        """So many images, at most all, evenly from the first to the last."""
        places = np.linspace(0, len(self) - 1, min(number, len(self)))
        return self._of([self.indices[place] for place in places.round().astype(int)])

    def _of(self, indices):
        pairs = copy.copy(self)
        pairs.indices = indices
        return pairs

    def renumbered(self, numbers, classes):
        """The same with other numbers for the classes.

        Args:
            numbers: the new number of each class, int64 of shape `(classes,)`.
            classes: how many classes the new numbers are of, at most 253.
        """
        check_classes(classes)
        pairs = copy.copy(self)
        pairs.classes = classes
        pairs.table = self.table.copy()
        is_class = self.table < self.classes
        pairs.table[is_class] = numbers[self.table[is_class]]
        return pairs


def class_of_label(classes, ignored_label):
    """The class of each label of 0–255, as a uint8 table.

    Labels above the ignored one are one more than their class.
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
    """Raises a ValueError if labels have no room for so many classes."""
    if not 0 < number < _UNKNOWN:
        raise ValueError(
            f"There are {number} class names; labels of 8 bits take 1 to "
            f"{_UNKNOWN - 1} classes. Set --class-names."
        )


def _one_channel(labels, name, advice):
    """Labels of 0–255; TFDS may have written one channel three times."""
    if labels.ndim == 3 and (labels == labels[..., :1]).all():
        labels = labels[..., 0]
    if labels.ndim != 2:
        raise ValueError(
            f"{name} has {labels.shape[2]} channels that differ; labels are one "
            f"channel, the class of each pixel.{advice and f' {advice}'}"
        )
    if labels.max() > 255:
        raise ValueError(
            f"{name} has the label {labels.max()}; labels go from 0 to 255, "
            f"{IGNORED - 1} classes at most."
        )
    return labels


def load_pairs(data):
    """The data set that a `recipes.options.segmentation.Data` names.

    Raises:
        MissingDatasetError: if it is not there, with how to get it.
        ValueError: if it is there but makes no sense.
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
            builder = prepared(data, data.train_split, data.test_split)
        except UnknownDatasetError as error:
            raise MissingDatasetError(
                f"There is no folder {folder.absolute()}, and TFDS has no data set "
                f"{data.dataset!r}. Give a folder as --dataset (--on of "
                "recipes.evaluate), by its path, or by its name with --data-dir, the "
                "folder that it is in."
            ) from error
        train, test = (
            _tfds(data, builder, split) for split in (data.train_split, data.test_split)
        )
        description = f"{data.dataset} (TFDS {builder.info.version})"
    return Dataset(train, test, names, description)


def _folder(data, folder):
    """The training and test pairs in a folder of one of the `LAYOUTS`."""
    splits = data.train_split, data.test_split
    places = [_places(folder, split) for split in splits]
    # If only one split is wanted, the others are not left out.
    contents = Contents(*places[0]) if splits[0] == splits[1] else Contents(folder)
    if splits[0] == splits[1]:
        pairs = [_folder_pairs(data, contents, *places[0])] * 2
    else:
        walked = {}  # no image may be in both
        pairs = [_folder_pairs(data, contents, *place, walked) for place in places]
    contents.warn()
    return pairs


def _places(folder, split):
    """Where the images of a split and their labels are."""
    if not folder.is_dir():
        raise MissingDatasetError(
            f"There is no folder {folder}. It should hold {split}/images and "
            f"{split}/labels, or images/{split} and annotations/{split} as ADE20K "
            "does, with labels as PNG files of the images' names."
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
        f"{folder} has neither {wanted}, but the folders {', '.join(found)}. Set "
        "--train-split and --test-split."
    )


def _folder_pairs(data, contents, images, labels, walked=None):
    """The pairs of a folder of images and one of labels."""
    pictures = _by_stem(images, contents.images_in(images, walked))
    masks = _by_stem(labels, _masks_in(labels, contents))
    for one, other, place in ((pictures, masks, labels), (masks, pictures, images)):
        alone = sorted(one.keys() - other.keys())
        if alone:
            more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
            raise ValueError(
                f"{one[alone[0]]}{more} has no partner {alone[0]}.* in {place}; labels "
                "end in .png, images as a format that Pillow decodes."
            )
    stems = sorted(pictures)
    pictures, masks = [pictures[s] for s in stems], [masks[s] for s in stems]
    return _pairs(data, pictures, masks, pictures.__getitem__, masks.__getitem__)


def _masks_in(folder, contents):
    """Paths of the labels in a folder: PNG, since JPEG would not keep each class."""
    try:
        found = contents.images_in(folder)
    except MissingDatasetError as error:
        raise MissingDatasetError(f"{error} Labels must be PNG files.") from None
    for path in found:
        if not path.lower().endswith(".png"):
            raise ValueError(
                f"{path} is not a PNG file; labels must be PNG, which keeps the class "
                "of each pixel."
            )
    return found


def _by_stem(folder, paths):
    """The files of a folder by the stems of their names."""
    found = {}
    for path in paths:
        stem = str(Path(path).relative_to(folder).with_suffix(""))
        if stem in found:
            raise ValueError(f"{found[stem]} and {path} have one stem; remove one.")
        found[stem] = path
    return found


def _tfds(data, builder, split):
    """The pairs of a split of a TFDS data set with an image and an annotation."""
    missing = {"image", "annotation"} - set(builder.info.features)
    if missing:
        raise ValueError(
            f"{data.dataset} has no {' and no '.join(sorted(missing))}, but "
            f"{', '.join(sorted(builder.info.features))}; segmentation needs both "
            "image and annotation."
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
