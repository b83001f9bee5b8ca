"""ImageNet's test sets and their protocols, through TFDS or from a folder."""

import dataclasses
import json
import re
import reprlib
from pathlib import Path

import numpy as np

from keras_cbvit.classes import check_names
from keras_cbvit.pretrained import imagenet

from ..data.folders import Contents, MissingDatasetError
from ..data.images import Images
from ..data.labels import read_text
from ..data.records import Records
from ..data.sources import Dataset, load_dataset
from ..data.tfds import prepare
from ..options.classification import Data

# The TFDS data set and its split.
PROTOCOLS = {
    "imagenet": ("imagenet2012", "validation"),
    "imagenet-v2": ("imagenet_v2", "test"),
    "real": ("imagenet2012_real", "validation"),
    "imagenet-a": ("imagenet_a", "test"),
}
# DeiT's, as for `recipes.configs.imagenet`.
CROP_FRACTION = 0.875


def protocol(name):
    """The protocol and the folder, if any, that a set's name says; else `None` twice.

    "imagenet-a" is the protocol through TFDS, "imagenet-a=FOLDER" from a folder.
    """
    found, _, folder = name.partition("=")
    return (found, folder or None) if found in PROTOCOLS else (None, None)


def data_of(name, real_labels=None):
    """The `Data` that a set's name means, before the user changes some of it."""
    found, folder = protocol(name)
    if found is None:
        return Data(dataset=name)
    dataset, split = PROTOCOLS[found]
    if folder:
        dataset, split = folder, "."
    elif found == "real" and real_labels:
        dataset = "imagenet2012"
    return Data(dataset=dataset, test_split=split, crop_fraction=CROP_FRACTION)


def with_options(data, options, image_size):
    """The `Data` of a set with what the options of a command say otherwise.

    Args:
        data: a `Data`, `data_of` the set.
        options: with `data_dir`, `test_split`, `crop_fraction` and `test_labels`, each
            `None` where it is not given.
        image_size: height and width of the model's images.
    """
    names = "data_dir", "test_split", "crop_fraction", "test_labels"
    given = {n: getattr(options, n) for n in names if getattr(options, n) is not None}
    data = dataclasses.replace(data, **given)
    return dataclasses.replace(data, train_split=data.test_split, image_size=image_size)


def load_set(name, data, real_labels=None):
    """The images of a set, with their labels by the names of the classes.

    - imagenet, imagenet-v2, imagenet-a: labels are ImageNet's synsets. A folder holds a
      folder for each class, named by its synset or, as ImageNet-V2 comes, its number.
    - real: several classes may be right, or none, then the image does not count. Labels
      are bool of shape `(images, 1000)`. From TFDS's `imagenet2012_real`; or those of
      the file `real_labels`, in the order of the numbers in the images' names
      (ILSVRC2012_val_00000001.JPEG is the first), for TFDS's `imagenet2012` or a folder
      with the validation images in any layout.
    - any other name: as for training.

    Args:
        name: of the set.
        data: `data_of(name)` but for what the user set.
        real_labels: a file in the format of `real.json`: a list with a list of classes
            for each image.

    Returns:
        A `recipes.data.sources.Dataset` without training images.

    Raises:
        MissingDatasetError: if it is not there, with how to get it.
        ValueError: if it is there but makes no sense.
    """
    found, folder = protocol(name)
    if folder and not Path(folder).is_dir():
        raise MissingDatasetError(f"There is no folder {folder}.")
    if found == "real":
        return _real(data, folder, real_labels)
    if found is None or not folder:
        return load_dataset(data, train=False)
    data = dataclasses.replace(data, dataset=str(Path(folder).absolute()))
    dataset = load_dataset(data, train=False)
    names = dataset.class_names
    if all(name.isdecimal() for name in names):
        numbers = [int(name) for name in names]
        if max(numbers) >= len(imagenet.synsets()):
            raise ValueError(
                f"{folder} has a class folder {max(numbers)}; ImageNet's classes go "
                "from 0 to 999."
            )
        names = [imagenet.synsets()[number] for number in numbers]
        names = check_names(names, what=f"{folder}: the list of class folders")
    return dataclasses.replace(
        dataset, class_names=names, description=f"{found} in {folder}"
    )


def _real(data, folder, real_labels):
    if folder:
        test_folder = Path(folder, data.test_split)
        contents = Contents(test_folder)
        paths = contents.images_in(test_folder)
        contents.warn()
        pictures, description = Images(paths, data, paths.__getitem__), folder
        file_names = paths
    else:
        builder = prepare(data, data.test_split)
        label = "label" if real_labels else "original_label"
        records = Records(builder, data.test_split, label)
        pictures = Images(records, data, records.name)
        description = f"{data.dataset} (TFDS {builder.info.version})"
        if real_labels:
            file_names = [name.decode() for (name,) in records.values("file_name")]
        else:
            labels = records.values("real_label")
    if real_labels:
        labels = _labels_of(file_names, read_real_labels(real_labels))
    elif folder:
        raise ValueError(f"The images of {folder} need --real-labels real.json.")
    right = np.zeros((len(labels), len(imagenet.synsets())), bool)
    for row, classes in zip(right, labels, strict=True):
        row[list(classes)] = True
    labeled = int(right.any(axis=1).sum())
    return Dataset(
        None,
        pictures.split(right),
        imagenet.synsets(),
        f"ReaL, {description}, {labeled} of {len(right)} images with labels",
    )


def read_real_labels(path):
    """The ReaL labels in a file: for each validation image a list of classes.

    Raises:
        MissingDatasetError: if there is no such file.
        ValueError: if it holds something else.
    """
    if not Path(path).is_file():
        raise MissingDatasetError(
            f"There is no file {path}; ReaL's is real.json of "
            "https://github.com/google-research/reassessed-imagenet."
        )
    text, known = read_text(path), range(len(imagenet.synsets()))
    try:
        labels = json.loads(text)
        reason = _wrong_real_labels(labels, known)
    except (ValueError, RecursionError) as error:
        reason = f"is not valid ({error!s:.200})"
    if reason is None:
        return labels
    raise ValueError(f"{path} should hold a list of lists of classes, but {reason}.")


def _wrong_real_labels(labels, known):
    if not isinstance(labels, list):
        return f"is not valid (it contains {reprlib.repr(labels)})"
    for place, classes in enumerate(labels):
        if not isinstance(classes, list):
            return f"is not valid (element {place} is {reprlib.repr(classes)})"
        if not all(type(label) is int and label in known for label in classes):
            return (
                f"has classes that are not from 0 to {known[-1]} (number {place} is "
                f"{reprlib.repr(classes)})"
            )
    return None


def _labels_of(file_names, real_labels):
    """The labels of ImageNet's validation images by the numbers in their names."""
    labels = []
    for name in file_names:
        number = re.search(r"ILSVRC2012_val_(\d{8})\.\w+$", name)
        if not number or not 0 < int(number[1]) <= len(real_labels):
            raise ValueError(
                f"{name} is not one of the {len(real_labels)} images with ReaL labels, "
                "which are called ILSVRC2012_val_00000001.JPEG and so on."
            )
        labels.append(real_labels[int(number[1]) - 1])
    return labels
