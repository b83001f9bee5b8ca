"""Data sources of classifiers: TFDS, image folders, arrays, scikit-learn's digits.

Every source provides training and test splits, each a sequence of uint8 images of one
size with labels. TensorFlow is not required.
"""

import dataclasses
from pathlib import Path

import numpy as np

from keras_cbvit.classes import check_names

from .arrays import read_arrays
from .folders import Contents, MissingDatasetError, is_above
from .images import Images, Split
from .labels import check_occurrence, class_indices, folders_by_name, read_names
from .storage import encoded_images, entries, path_of
from .tfds import load_split, prepare, refuse_float_images


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and test splits with class names."""

    train: Split | None
    test: Split
    class_names: tuple[str, ...]
    """Class names, as returned by `keras_cbvit.classes.check_names`."""
    description: str


def load_dataset(data, train=True, originals=False):
    """Loads the data set of a `recipes.options.classification.Data`.

    Splits kept in memory skip images that cannot be decoded, with a warning; if
    `data.strict`, such images are an error. Classes without training or test images
    cause a warning.

    Args:
        data: a `recipes.options.classification.Data`.
        train: whether to also load the training images.
        originals: whether to keep the training images as `Images`, for random
            crops, even if they fit into memory.

    Raises:
        MissingDatasetError: if the data set does not exist; the message explains how
            to get it.
        ValueError: if the data set is invalid, or has training images of fewer than
            two classes.
    """
    dataset = _load(data, train, originals)
    if train:
        labels = dataset.train.labels, dataset.test.labels
        check_occurrence(*labels, dataset.class_names, data.dataset)
    return dataset


def _load(data, train, originals):
    folder = path_of(data.dataset)
    is_arrays = data.dataset.endswith(".npz")
    # "imagenette/320px" is a TFDS name, not a folder.
    is_folder = folder.is_dir() or folder.is_absolute() or data.dataset.startswith(".")
    if is_folder and not is_arrays and data.dataset != "digits":
        return _folder(data, folder, train, originals)
    if data.test_labels is not None:
        raise ValueError(
            f"test_labels={data.test_labels} requires a folder of images, which "
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
        Images(train, data, originals=originals).split(train_labels),
        Images(test, data).split(test_labels),
        tuple(str(digit) for digit in range(10)),
        "scikit-learn's digits",
    )


def _arrays(data, originals):
    path = Path(data.dataset)
    if not path.is_file():
        raise MissingDatasetError(
            f"The file {path} does not exist; create it with numpy.savez(..., "
            "x_train=..., y_train=..., x_test=..., y_test=...)."
        )
    splits, names = read_arrays(path, data, originals)
    return Dataset(splits["train"], splits["test"], names, path.name)


def _folder(data, folder, train, originals):
    if not folder.is_dir():
        raise MissingDatasetError(
            f"The folder {folder} does not exist. It must contain one folder of images "
            f"per class, or class folders in {data.train_split}/ and "
            f"{data.test_split}/."
        )
    train_folder, test_folder = folder / data.train_split, folder / data.test_split
    if test_folder.is_dir() and (train_folder.is_dir() or not train):
        contents = Contents(folder if train else test_folder)
        names, parts = _divided_folder(data, contents, train_folder, test_folder, train)
        description = folder.name if train else f"{folder.name}, {data.test_split}"
    else:
        contents, split_folders = Contents(folder), (train_folder, test_folder)
        names, parts = _undivided_folder(data, contents, folder, split_folders)
        description = f"{folder.name}, one in five images set aside for testing"
    contents.warn()
    splits = {}
    for split, (paths, labels) in parts.items():
        if split == "test" or train:
            kept_as_is = originals and split == "train"
            images = Images(encoded_images(paths), data, paths.__getitem__, kept_as_is)
            splits[split] = images.split(labels)
    return Dataset(splits.get("train"), splits["test"], names, description)


def _divided_folder(data, contents, train_folder, test_folder, train):
    """Returns the class names, and the paths and labels of the given splits."""
    # The training folders define the classes, even if only test images are loaded.
    with_names = train_folder if train or _folders(train_folder) else test_folder
    # The splits must not overlap, unless the same split is given for both.
    walked = None if train_folder == test_folder else {}
    if _folders(test_folder):
        if data.test_labels is not None:
            raise ValueError(
                f"test_labels={data.test_labels} requires a folder without class "
                f"folders, but {test_folder} has class folders."
            )
        folders = _class_folders(with_names)
        names = tuple(folders)
        of_test = folders_by_name(test_folder, _folders(test_folder))
        found_where = f"{test_folder} has the class folders"
        class_indices(of_test, names, found_where, "the training images have")
        test = _files_of(contents, test_folder, of_test, names, walked)
    else:
        paths, classes = _flat_files(contents, test_folder, data.test_labels, walked)
        flat = with_names == test_folder
        folders = {} if flat else _class_folders(with_names)
        names = tuple(folders) or tuple(sorted(set(classes)))
        found_where = f"{data.test_labels} has the classes"
        test = (
            paths,
            class_indices(classes, names, found_where, "the training images have"),
        )
    if not train:
        return names, {"test": test}
    train = _files_of(contents, train_folder, folders, names, walked)
    return names, {"train": train, "test": test}


def _undivided_folder(data, contents, folder, split_folders):
    """Returns the class names, and paths and labels of a random split of a folder."""
    from sklearn.model_selection import train_test_split

    for split_folder in split_folders:
        # A split with class folders; a class named "train" contains no folders.
        if _folders(split_folder):
            raise MissingDatasetError(
                f"{folder} has class folders in {split_folder.name}/, but not both "
                f"{data.train_split}/ and {data.test_split}/; its folders are "
                f"{', '.join(_folders(folder))}. Set --train-split and --test-split."
            )
    if data.test_labels is not None:
        raise ValueError(
            f"test_labels={data.test_labels} requires a folder of test images, but "
            f"{split_folders[1]} does not exist; set --test-split."
        )
    folders = _class_folders(folder)
    names = tuple(folders)
    inside = [_folders(folder / each) for each in folders.values()]
    if inside[0] and inside[0] == inside[1]:
        raise MissingDatasetError(
            f"{folder} has neither {data.train_split}/ nor {data.test_split}/, but "
            f"{names[0]} and {names[1]} contain folders with the same names "
            f"({', '.join(inside[0][:5])}). If they are splits, set --train-split and "
            "--test-split."
        )
    paths, labels = _files_of(contents, folder, folders, names)
    try:
        train_paths, test_paths, train_labels, test_labels = train_test_split(
            paths, labels, test_size=0.2, random_state=0, stratify=labels
        )
    except ValueError as error:
        raise ValueError(
            f"{folder} has {len(paths)} images of {len(names)} classes, too few for a "
            "random test split of one fifth with images of each class. Divide the "
            f"images manually into {data.train_split}/ and {data.test_split}/."
        ) from error
    return names, {
        "train": (train_paths, train_labels),
        "test": (test_paths, test_labels),
    }


def _folders(folder):
    """Returns the sorted names of subfolders; empty if the folder does not exist.

    Hidden folders and links to the folder or its parents are omitted.
    """
    if not folder.is_dir():
        return ()
    return tuple(
        entry.name
        for entry in entries(folder)
        if not entry.name.startswith(".")
        and entry.is_dir()
        and not (entry.is_symlink() and is_above(entry.path, folder))
    )


def _class_folders(folder):
    """Returns the class folders in a folder, by class name."""
    found = _folders(folder)
    if len(found) < 2:
        raise MissingDatasetError(
            f"{folder} has {len(found)} class folders, but at least two are required; "
            "put the images of each class into a separate folder."
        )
    return folders_by_name(folder, found)


def _files_of(contents, folder, folders, names, walked=None):
    """Returns the paths and labels of the images in class folders."""
    paths, labels = [], []
    walked = {} if walked is None else walked
    numbers = {name: number for number, name in enumerate(names)}
    for name, its_folder in folders.items():
        found = contents.images_in(folder / its_folder, walked)
        paths += found
        labels += [numbers[name]] * len(found)
    return paths, np.array(labels, "int64")


def _flat_files(contents, folder, labels_file, walked):
    """Returns the paths of the images in a folder, and the class name of each."""
    if labels_file is None:
        raise MissingDatasetError(
            f"{folder} has no class folders. Put the images of each class into a "
            "separate folder, or give --test-labels FILE: a text file with the class "
            "folder name of each image, one per line, in the order of the image file "
            "names. For ImageNet, use TFDS's "
            "tensorflow_datasets/datasets/imagenet2012/validation_labels.txt or "
            "TensorFlow's imagenet_2012_validation_synset_labels.txt."
        )
    if not Path(labels_file).is_file():
        raise MissingDatasetError(
            f"The file of test labels {labels_file} does not exist."
        )
    contents.use(labels_file)
    paths = contents.images_in(folder, walked)
    classes = read_names(labels_file)
    if len(classes) != len(paths):
        raise ValueError(
            f"{labels_file} has {len(classes)} lines, but {folder} has {len(paths)} "
            "images."
        )
    return paths, classes


def _tfds(data, train, originals):
    import tensorflow_datasets as tfds

    splits = (data.train_split, data.test_split) if train else (data.test_split,)
    builder = prepare(data, *splits)
    info = builder.info
    features = dict(info.features)
    # Features of these names may have other types, such as boxes or label sequences.
    if not (
        isinstance(features.get("image"), tfds.features.Image)
        and isinstance(features.get("label"), tfds.features.ClassLabel)
    ):
        found = (f"{key} ({type(features[key]).__name__})" for key in sorted(features))
        raise ValueError(
            f"{data.dataset} has the features {', '.join(found)}; classification "
            "requires image (Image) and label (ClassLabel)."
        )
    refuse_float_images(builder, "image")
    return Dataset(
        load_split(builder, data.train_split, data, originals) if train else None,
        load_split(builder, data.test_split, data),
        check_names(features["label"].names, what=f"{data.dataset}: class_names"),
        f"{data.dataset} (TFDS {info.version})",
    )
