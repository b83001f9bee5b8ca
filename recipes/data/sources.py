"""Where images come from: TFDS, an image folder, arrays, scikit-learn's digits.

Every source gives the same: for training and for testing, a sequence of uint8 images
of one size and their labels. Pictures are decoded and resized by Pillow whatever the
backend, so that a model sees the same pixels on each; TensorFlow is not needed.
"""

import dataclasses
import importlib.util
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recipes.data.tfrecords import Records, damaged

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif")
# Decoded images are kept up to this size, larger sets are decoded at each use.
MEMORY_BYTES = 2 << 30


class MissingDatasetError(FileNotFoundError):
    """A data set is not where it was looked for; the message says how to get it."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Images of shape `(height, width, 3)`, uint8, by index; labels, int64."""

    images: Sequence
    labels: np.ndarray

    def __len__(self):
        return len(self.labels)

    def first(self, number):
        """The first so many images, at most all."""
        number = min(number, len(self))
        images = np.stack([self.images[i] for i in range(number)])
        return Split(images, self.labels[:number])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and test images with the names of their classes."""

    train: Split | None
    test: Split
    class_names: tuple[str, ...]
    description: str


def load_dataset(data, train=True):
    """The data set that a `recipes.experiment.Data` names.

    Args:
        data: a `recipes.experiment.Data`.
        train: whether to load the training images, too.

    Raises:
        MissingDatasetError: if it is not there, with how to get it.
        ValueError: if it is there but makes no sense.
    """
    if data.dataset == "digits":
        return _digits(data)
    if data.dataset.endswith(".npz"):
        return _arrays(data)
    folder = Path(data.dataset).expanduser()
    # "imagenette/320px" is a name of TFDS, not a folder.
    if folder.is_dir() or folder.is_absolute() or data.dataset.startswith("."):
        return _folder(data, folder, train)
    return _tfds(data, train)


class Pictures(Sequence):
    """Images that are decoded and brought to one size when they are asked for."""

    def __init__(self, encoded, data):
        """`encoded` is a sequence of paths, of encoded bytes or of uint8 arrays."""
        if not 0 < data.crop_fraction <= 1:
            raise ValueError(
                f"crop_fraction={data.crop_fraction} must be more than 0 and at most 1."
            )
        self.encoded = encoded
        self.size = data.image_size
        self.crop_fraction = data.crop_fraction

    def __len__(self):
        return len(self.encoded)

    def __getitem__(self, index):
        return decode(self.encoded[index], self.size, self.crop_fraction)

    def kept_if_small(self):
        """All images in one array, if `MEMORY_BYTES` are enough for it."""
        height, width = self.size
        if len(self) * height * width * 3 > MEMORY_BYTES:
            return self
        images = np.empty((len(self), height, width, 3), "uint8")
        for i, image in enumerate(self):
            images[i] = image
        return images


def decode(picture, size, crop_fraction=1.0):
    """A picture as uint8 array of shape `(height, width, 3)`.

    The largest part of the picture that has the wanted proportions is cut from its
    centre, of it the centre `crop_fraction`, which is resized with antialiasing.

    Args:
        picture: a path, the bytes of a file, or a uint8 array of shape `(height,
            width)` or `(height, width, channels)`.
        size: the wanted `(height, width)`.
        crop_fraction: share of height and width that is kept, at most 1.
    """
    from PIL import Image, ImageOps

    try:
        if isinstance(picture, np.ndarray):
            one_channel = picture.ndim == 3 and picture.shape[-1] == 1
            image = Image.fromarray(picture[..., 0] if one_channel else picture)
        else:
            source = io.BytesIO(picture) if isinstance(picture, bytes) else picture
            image = Image.open(source)
        image = image.convert("RGB")
    except Exception as error:  # Pillow raises many kinds, SyntaxError among them
        where = picture if isinstance(picture, Path) else "a record"
        raise ValueError(f"{where} is not a readable image ({error}).") from error
    height, width = size
    if image.size != (width, height) or crop_fraction != 1:
        image = ImageOps.fit(
            image, (width, height), Image.Resampling.BICUBIC, (1 - crop_fraction) / 2
        )
    return np.asarray(image)


def _digits(data):
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype("uint8")
    images = Pictures(list(pixels), data).kept_if_small()
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, digits.target, test_size=360, random_state=0, stratify=digits.target
    )
    return Dataset(
        Split(train_images, train_labels),
        Split(test_images, test_labels),
        tuple(str(digit) for digit in range(10)),
        "scikit-learn's digits",
    )


def _arrays(data):
    path = Path(data.dataset)
    if not path.is_file():
        raise MissingDatasetError(
            f"There is no file {path}. Write it with numpy.savez(..., x_train=..., "
            "y_train=..., x_test=..., y_test=...)."
        )
    try:
        arrays = np.load(path)
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a readable .npz file ({error}).") from error
    with arrays:
        missing = {"x_train", "y_train", "x_test", "y_test"} - set(arrays.files)
        if missing:
            raise ValueError(
                f"{path} has no {', '.join(sorted(missing))}; it needs x_train, "
                "y_train, x_test, y_test."
            )
        splits = {}
        for split in ("train", "test"):
            images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"].ravel()
            is_images = images.ndim == 3 or images.shape[3:] in ((1,), (3,), (4,))
            if images.dtype != np.uint8 or not is_images or len(images) != len(labels):
                raise ValueError(
                    f"{path}: x_{split} must hold uint8 images of shape (height, "
                    "width) or (height, width, channels), one for each of "
                    f"y_{split}; it is {images.dtype} of shape {images.shape}, and "
                    f"there are {len(labels)} labels."
                )
            images = Pictures(images, data).kept_if_small()
            splits[split] = Split(images, labels.astype("int64"))
        names = arrays["class_names"] if "class_names" in arrays.files else None
    if names is None:
        names = range(max(split.labels.max() for split in splits.values()) + 1)
    names = tuple(str(name) for name in names)
    return Dataset(splits["train"], splits["test"], names, path.name)


def _folder(data, folder, train):
    if not folder.is_dir():
        raise MissingDatasetError(
            f"There is no folder {folder}. It should hold one folder of images for "
            f"each class, or such folders in {data.train_split}/ and "
            f"{data.test_split}/."
        )
    train_folder, test_folder = folder / data.train_split, folder / data.test_split
    if not train and test_folder.is_dir():
        names = _class_folders(test_folder)
        description = f"{folder.name}, {data.test_split}"
        parts = {"test": _files_of(test_folder, names)}
    elif train_folder.is_dir() and test_folder.is_dir():
        names = _class_folders(train_folder)
        unknown = sorted(set(_class_folders(test_folder)) - set(names))
        if unknown:
            raise ValueError(
                f"{test_folder} has the class folders {', '.join(unknown)}, which "
                f"{train_folder} has not."
            )
        description = folder.name
        parts = {
            "train": _files_of(train_folder, names),
            "test": _files_of(test_folder, names),
        }
    else:
        from sklearn.model_selection import train_test_split

        names = _class_folders(folder)
        paths, labels = _files_of(folder, names)
        try:
            train_paths, test_paths, train_labels, test_labels = train_test_split(
                paths, labels, test_size=0.2, random_state=0, stratify=labels
            )
        except ValueError as error:
            raise ValueError(
                f"{folder} has {len(paths)} images of {len(names)} classes, too few to "
                "set every fifth aside for testing with some of each class. Divide "
                f"them yourself, into {data.train_split}/ and {data.test_split}/."
            ) from error
        description = f"{folder.name}, one in five images set aside for testing"
        parts = {"test": (test_paths, test_labels)}
        if train:
            parts["train"] = (train_paths, train_labels)
    splits = {
        split: Split(Pictures(paths, data).kept_if_small(), labels)
        for split, (paths, labels) in parts.items()
    }
    return Dataset(splits.get("train"), splits["test"], names, description)


def _class_folders(folder):
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    if len(names) < 2:
        raise MissingDatasetError(
            f"{folder} has {len(names)} class folders; put the images of each class "
            "into a folder of its own there, at least two."
        )
    return names


def _files_of(folder, names):
    paths, labels = [], []
    for label, name in enumerate(names):
        found = sorted(
            path
            for path in (folder / name).rglob("*")
            if path.suffix.lower() in PICTURES
        )
        if not found:
            raise MissingDatasetError(
                f"{folder / name} has no images ({', '.join(PICTURES)})."
            )
        paths += found
        labels += [label] * len(found)
    return paths, np.array(labels, "int64")


def _tfds(data, train):
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(data.dataset, data_dir=data.data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise MissingDatasetError(
            f"dataset={data.dataset!r} is neither 'digits', an .npz file, an existing "
            "folder, nor the name of a TFDS data set "
            "(https://www.tensorflow.org/datasets/catalog/overview lists them)."
        ) from error
    if not builder.info.splits:
        _download(builder, data.dataset)
    info = builder.info
    for split in (data.train_split, data.test_split) if train else (data.test_split,):
        if split not in info.splits:
            raise ValueError(
                f"{data.dataset} has no split {split!r}, but "
                f"{', '.join(info.splits)}; set --train-split and --test-split."
            )
    if not {"image", "label"} <= set(info.features):
        raise ValueError(
            f"{data.dataset} has no image and label, but "
            f"{', '.join(sorted(info.features))}; classification needs both."
        )
    return Dataset(
        _tfds_split(builder, data.train_split, data) if train else None,
        _tfds_split(builder, data.test_split, data),
        tuple(info.features["label"].names),
        f"{data.dataset} (TFDS {info.version})",
    )


def _download(builder, name):
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise MissingDatasetError(
            f"{name} is not in {builder.data_dir} and could not be downloaded "
            f"({type(error).__name__}: {str(error)[:1000]}). Prepare it on a machine "
            'with internet, `python -c "import tensorflow_datasets as tfds; '
            f"tfds.load('{name}', data_dir='DIR')\"`, and give --data-dir DIR."
        ) from error


def _tfds_split(builder, split, data):
    import tensorflow_datasets as tfds

    undecoded = {"image": tfds.decode.SkipDecoding()}
    small = builder.info.splits[split].num_bytes < MEMORY_BYTES
    if small and importlib.util.find_spec("tensorflow"):
        # TFDS's own reader knows every file format, but it only streams.
        from tensorflow.errors import OpError

        examples = tfds.as_numpy(
            tfds.load(
                data.dataset,
                split=split,
                data_dir=data.data_dir,
                decoders=undecoded,
                download=False,
                # One file after the other: the order of `Records`.
                read_config=tfds.ReadConfig(interleave_cycle_length=1),
            )
        )
        try:
            examples = [(example["image"], example["label"]) for example in examples]
        except OpError as error:
            raise damaged(builder.data_path, error.message) from error
        encoded, labels = zip(*examples, strict=True)
        labels = np.array(labels, "int64")
    else:
        encoded = Records(builder, split, undecoded)
        labels = encoded.labels()
    return Split(Pictures(encoded, data).kept_if_small(), labels)
