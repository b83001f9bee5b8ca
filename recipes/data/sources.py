"""Where images come from: TFDS, an image folder, arrays, scikit-learn's digits.

Every source gives the same: for training and for testing, a sequence of uint8 images
of one size and their labels. TensorFlow is not needed.
"""

import dataclasses
import functools
import importlib.util
import os
from pathlib import Path

import numpy as np

from keras_cbvit.pretrained.classes import checked_names
from recipes.data import pictures
from recipes.data.arrays import read_arrays
from recipes.data.labels import check_occurrence, folders_by_name, places, read_names
from recipes.data.pictures import Pictures, Split
from recipes.data.tfrecords import Records, damaged

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif")


class MissingDatasetError(FileNotFoundError):
    """A data set is not where it was looked for; the message says how to get it."""


class UnknownDatasetError(MissingDatasetError):
    """TFDS has no data set of that name."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and test images with the names of their classes."""

    train: Split | None
    test: Split
    class_names: tuple[str, ...]
    """As `keras_cbvit.pretrained.classes.checked_names` gives them."""
    description: str


def load_dataset(data, train=True, originals=False):
    """The data set that a `recipes.experiment.Data` names.

    Pictures that cannot be decoded are left out of a split that is kept in memory,
    with a warning, or are an error if `data.strict`. Classes of which there are no
    training or no test images are named in a warning.

    Args:
        data: a `recipes.experiment.Data`.
        train: whether to load the training images, too.
        originals: whether the training images stay `Pictures`, of which random crops
            can be cut, however small they are.

    Raises:
        MissingDatasetError: if it is not there, with how to get it.
        ValueError: if it is there but makes no sense, or has training images of fewer
            than two classes.
    """
    dataset = _loaded(data, train, originals)
    if train:
        labels = dataset.train.labels, dataset.test.labels
        check_occurrence(*labels, dataset.class_names, data.dataset)
    return dataset


def _loaded(data, train, originals):
    folder = Path(data.dataset).expanduser()
    is_arrays = data.dataset.endswith(".npz")
    # "imagenette/320px" is a name of TFDS, not a folder.
    is_folder = folder.is_dir() or folder.is_absolute() or data.dataset.startswith(".")
    if is_folder and not is_arrays and data.dataset != "digits":
        return _folder(data, folder, train, originals)
    if data.test_labels is not None:
        raise ValueError(
            f"test_labels={data.test_labels} goes with a folder of images, which "
            f"{data.dataset} is not."
        )
    if data.dataset == "digits":
        return _digits(data, originals)
    if is_arrays:
        return _arrays(data, originals)
    return _tfds(data, train, originals)


def _digits(data, originals):
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype("uint8")
    train, test, train_labels, test_labels = train_test_split(
        pixels, digits.target, test_size=360, random_state=0, stratify=digits.target
    )
    return Dataset(
        Pictures(train, data, originals=originals).split(train_labels),
        Pictures(test, data).split(test_labels),
        tuple(str(digit) for digit in range(10)),
        "scikit-learn's digits",
    )


def _arrays(data, originals):
    path = Path(data.dataset)
    if not path.is_file():
        raise MissingDatasetError(
            f"There is no file {path}. Write it with numpy.savez(..., x_train=..., "
            "y_train=..., x_test=..., y_test=...)."
        )
    splits, names = read_arrays(path, data, originals)
    return Dataset(splits["train"], splits["test"], names, path.name)


def _folder(data, folder, train, originals):
    if not folder.is_dir():
        raise MissingDatasetError(
            f"There is no folder {folder}. It should hold one folder of images for "
            f"each class, or such folders in {data.train_split}/ and "
            f"{data.test_split}/."
        )
    train_folder, test_folder = folder / data.train_split, folder / data.test_split
    if test_folder.is_dir() and (train_folder.is_dir() or not train):
        names, parts = _divided_folder(data, train_folder, test_folder, train)
        description = folder.name if train else f"{folder.name}, {data.test_split}"
    else:
        names, parts = _undivided_folder(data, folder, (train_folder, test_folder))
        description = f"{folder.name}, one in five images set aside for testing"
    splits = {}
    for split, (paths, labels) in parts.items():
        if split == "test" or train:
            kept_as_is = originals and split == "train"
            images = Pictures(paths, data, paths.__getitem__, kept_as_is)
            splits[split] = images.split(labels)
    return Dataset(splits.get("train"), splits["test"], names, description)


def _divided_folder(data, train_folder, test_folder, train):
    """The class names; paths and labels of the splits."""
    # The training images' folders say which classes there are, used or not.
    with_names = train_folder if train or _folders(train_folder) else test_folder
    if _folders(test_folder):
        if data.test_labels is not None:
            raise ValueError(
                f"test_labels={data.test_labels} goes with a folder of images, but "
                f"{test_folder} has class folders."
            )
        folders = _class_folders(with_names)
        names = tuple(folders)
        of_test = folders_by_name(test_folder, _folders(test_folder))
        found_where = f"{test_folder} has the class folders"
        places(of_test, names, found_where, "the training images have")
        test = _files_of(test_folder, of_test, names)
    else:
        paths, classes = _flat_files(test_folder, data.test_labels)
        flat = with_names == test_folder
        folders = {} if flat else _class_folders(with_names)
        names = tuple(folders) or tuple(sorted(set(classes)))
        found_where = f"{data.test_labels} has the classes"
        test = paths, places(classes, names, found_where, "the training images have")
    if not train:
        return names, {"test": test}
    return names, {"train": _files_of(train_folder, folders, names), "test": test}


def _undivided_folder(data, folder, split_folders):
    """The class names; paths and labels of the splits."""
    from sklearn.model_selection import train_test_split

    for split_folder in split_folders:
        # Its splits are not classes. A class named "train" holds no folders.
        if _folders(split_folder):
            raise MissingDatasetError(
                f"{folder} has the class folders of a split in {split_folder.name}/, "
                f"but not both {data.train_split}/ and {data.test_split}/; it has "
                f"{', '.join(_folders(folder))}. Set --train-split and --test-split."
            )
    if data.test_labels is not None:
        raise ValueError(
            f"test_labels={data.test_labels} goes with a folder of images, but there "
            f"is no {split_folders[1]}; set --test-split."
        )
    folders = _class_folders(folder)
    names = tuple(folders)
    inside = [_folders(folder / each) for each in folders.values()]
    if inside[0] and inside[0] == inside[1]:
        raise MissingDatasetError(
            f"{folder} has neither {data.train_split}/ nor {data.test_split}/, but "
            f"{names[0]} and {names[1]} hold folders of the same names "
            f"({', '.join(inside[0][:5])}): if they are the splits, set --train-split "
            "and --test-split."
        )
    paths, labels = _files_of(folder, folders, names)
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
    return names, {
        "train": (train_paths, train_labels),
        "test": (test_paths, test_labels),
    }


def _folders(folder):
    """Names of the folders in a folder, in order; none if it is not there."""
    if not folder.is_dir():
        return ()
    paths = (path for path in folder.iterdir() if not path.name.startswith("."))
    return tuple(sorted(path.name for path in paths if path.is_dir()))


def _class_folders(folder):
    """The class folders in a folder, by the names of their classes."""
    found = _folders(folder)
    if len(found) < 2:
        raise MissingDatasetError(
            f"{folder} has {len(found)} class folders; put the images of each class "
            "into a folder of its own there, at least two."
        )
    return folders_by_name(folder, found)


def _files_of(folder, folders, names):
    """Paths and labels of the pictures in class folders, by the names of classes."""
    paths, labels = [], []
    for name, its_folder in folders.items():
        found = pictures_in(folder / its_folder)
        paths += found
        labels += [names.index(name)] * len(found)
    return paths, np.array(labels, "int64")


def _flat_files(folder, labels_file):
    """Paths of the pictures in a folder, and the class of each by its name."""
    if labels_file is None:
        raise MissingDatasetError(
            f"{folder} has no class folders. Put the images of each class into a "
            "folder of its own there, or give --test-labels FILE: a text file with "
            "the name of each image's class folder, one per line, in the order of the "
            "images' names. TFDS brings that of ImageNet along, "
            "tensorflow_datasets/datasets/imagenet2012/validation_labels.txt; "
            "TensorFlow has it as imagenet_2012_validation_synset_labels.txt."
        )
    if not Path(labels_file).is_file():
        raise MissingDatasetError(f"There is no file {labels_file} of test labels.")
    paths = pictures_in(folder)
    classes = read_names(labels_file)
    if len(classes) != len(paths):
        raise ValueError(
            f"{labels_file} has {len(classes)} lines, but {folder} {len(paths)} images."
        )
    return paths, classes


def pictures_in(folder):
    """Paths of the pictures in a folder and its folders, in order, as strings."""
    found = files_in(folder, PICTURES)
    if not found:
        raise MissingDatasetError(f"{folder} has no images ({', '.join(PICTURES)}).")
    return found


def files_in(folder, endings):
    """Paths of the files with one of these endings in a folder and its folders.

    In order, as strings: ImageNet's as `Path` objects would take a gigabyte.
    """
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            is_meant = os.path.splitext(name)[1].lower() in endings
            if is_meant and not name.startswith("."):
                found.append(os.path.join(parent, name))
    return sorted(found, key=lambda path: path.split(os.sep))


def _tfds(data, train, originals):
    import tensorflow_datasets as tfds

    splits = (data.train_split, data.test_split) if train else (data.test_split,)
    builder = prepared(data, *splits)
    info = builder.info
    features = dict(info.features)
    # Features of these names may still be boxes or several labels.
    if not (
        isinstance(features.get("image"), tfds.features.Image)
        and isinstance(features.get("label"), tfds.features.ClassLabel)
    ):
        found = (f"{key} ({type(features[key]).__name__})" for key in sorted(features))
        raise ValueError(
            f"{data.dataset} has no image (Image) and label (ClassLabel), but "
            f"{', '.join(found)}; classification needs both."
        )
    return Dataset(
        _tfds_split(builder, data.train_split, data, originals) if train else None,
        _tfds_split(builder, data.test_split, data),
        checked_names(features["label"].names, what=f"{data.dataset}: class_names"),
        f"{data.dataset} (TFDS {info.version})",
    )


def prepared(data, *splits):
    """The TFDS builder that a `Data` names, whose files are there, with these splits.

    Raises:
        UnknownDatasetError: if TFDS does not know it.
        MissingDatasetError: if they are not, with how to get them.
        ValueError: if there is no such split.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(data.dataset, data_dir=data.data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise UnknownDatasetError(
            f"dataset={data.dataset!r} is neither 'digits', an .npz file, an existing "
            "folder, nor the name of a TFDS data set "
            "(https://www.tensorflow.org/datasets/catalog/overview lists them)."
        ) from error
    if not builder.info.splits:
        _download(builder, data.dataset)
    for split in splits:
        if split not in builder.info.splits:
            raise ValueError(
                f"{data.dataset} has no split {split!r}, but "
                f"{', '.join(builder.info.splits)}; set --train-split and --test-split."
            )
    return builder


def _download(builder, name):
    try:
        builder.download_and_prepare()
    except Exception as error:
        advice = (
            "Prepare it on a machine with internet and TensorFlow, "
            '`python -c "import tensorflow_datasets as tfds; '
            f"tfds.load('{name}', data_dir='DIR')\"`, and give --data-dir DIR."
        )
        if builder.name == "imagenet2012":
            advice += (
                " Before, put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, "
                "from https://image-net.org/download-images, into "
                "DIR/downloads/manual. A folder in ImageNet's own layout does, too: "
                "--dataset FOLDER with train/n01440764/*.JPEG and so on, val/*.JPEG, "
                "--test-split val and --test-labels FILE."
            )
        raise MissingDatasetError(
            f"{name} is not in {builder.data_dir} and could not be downloaded "
            f"({type(error).__name__}: {str(error)[:1000]}). {advice}"
        ) from error


def _tfds_split(builder, split, data, originals=False):
    small = builder.info.splits[split].num_bytes < pictures.MEMORY_BYTES
    if small and importlib.util.find_spec("tensorflow"):
        encoded, labels = _streamed(builder, split, data)
        name = functools.partial(
            "{0}, record {2} of the split {1!r}".format, builder.data_path, split
        )
    else:
        encoded = Records(builder, split)
        labels, name = encoded.labels, encoded.name
    return Pictures(encoded, data, name, originals).split(labels)


def _streamed(builder, split, data):
    """Encoded images and labels by TFDS's own reader.

    It knows every file format, but it only streams, and needs TensorFlow.
    """
    import tensorflow_datasets as tfds
    from tensorflow.errors import OpError

    examples = tfds.as_numpy(
        tfds.load(
            data.dataset,
            split=split,
            data_dir=data.data_dir,
            decoders={"image": tfds.decode.SkipDecoding()},
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
    return encoded, np.array(labels, "int64")
