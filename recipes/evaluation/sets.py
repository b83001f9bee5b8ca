"""ImageNet's test sets and their protocols, from TFDS or from a folder."""

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

# TFDS data set and split of each protocol.
PROTOCOLS = {
    "imagenet": ("imagenet2012", "validation"),
    "imagenet-v2": ("imagenet_v2", "test"),
    "real": ("imagenet2012_real", "validation"),
    "imagenet-a": ("imagenet_a", "test"),
}
# As in DeiT and `recipes.configs.imagenet`.
CROP_FRACTION = 0.875


def protocol(name):
    """Returns the protocol and the folder in a set's name, each `None` if absent.

    "imagenet-a" takes the images from TFDS, "imagenet-a=FOLDER" from a folder.
    """
    found, _, folder = name.partition("=")
    return (found, folder or None) if found in PROTOCOLS else (None, None)


def data_of(name, real_labels=None):
    """Returns the default `Data` of a set."""
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
    """Returns the `Data` of a set with the options of a command applied.

    Args:
        data: `Data` of the set, see `data_of`.
        options: object with `data_dir`, `test_split`, `crop_fraction` and
            `test_labels`; `None` keeps the value of `data`.
        image_size: height and width of the model's images.
    """
    names = "data_dir", "test_split", "crop_fraction", "test_labels"
    given = {n: getattr(options, n) for n in names if getattr(options, n) is not None}
    data = dataclasses.replace(data, **given)
    return dataclasses.replace(data, train_split=data.test_split, image_size=image_size)


def load_set(name, data, real_labels=None):
    """Loads the images and labels of a test set.

    - imagenet, imagenet-v2, imagenet-a: classes are ImageNet's synsets. A folder has a
      subfolder for each class, named by its synset or, as in ImageNet-V2, its number.
    - real: labels are bool of shape `(images, 1000)`, with any number of correct
      classes; images without any do not count. They come from TFDS's
      `imagenet2012_real`, or from the file `real_labels` for TFDS's `imagenet2012` or a
      folder with the validation images in any layout. The file is in the order of the
      numbers in the images' names, starting at ILSVRC2012_val_00000001.JPEG.
    - any other name: as for training.

    Args:
        name: name of the set.
        data: `data_of(name)`, possibly with changes by the user.
        real_labels: file in the format of `real.json`, a list with a list of classes
            for each image.

    Returns:
        A `recipes.data.sources.Dataset` without training images.

    Raises:
        MissingDatasetError: if the set is missing; the message says how to get it.
        ValueError: if the set is invalid.
    """
    found, folder = protocol(name)
    if folder and not Path(folder).is_dir():
        raise MissingDatasetError(f"The folder {folder} does not exist.")
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
                f"{folder} has a class folder {max(numbers)}; ImageNet's classes range "
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
        images, description = Images(paths, data, paths.__getitem__), folder
        file_names = paths
    else:
        builder = prepare(data, data.test_split)
        label = "label" if real_labels else "original_label"
        records = Records(builder, data.test_split, label)
        images = Images(records, data, records.name)
        description = f"{data.dataset} (TFDS {builder.info.version})"
        if real_labels:
            file_names = [name.decode() for (name,) in records.values("file_name")]
        else:
            labels = records.values("real_label")
    if real_labels:
        labels = _labels_of(file_names, read_real_labels(real_labels))
    elif folder:
        raise ValueError(f"The images in {folder} require --real-labels real.json.")
    right = np.zeros((len(labels), len(imagenet.synsets())), bool)
    for row, classes in zip(right, labels, strict=True):
        row[list(classes)] = True
    labeled = int(right.any(axis=1).sum())
    return Dataset(
        None,
        images.split(right),
        imagenet.synsets(),
        f"ReaL, {description}, {labeled} of {len(right)} images with labels",
    )


def read_real_labels(path):
    """Reads a file of ReaL labels, a list of classes for each validation image.

    Raises:
        MissingDatasetError: if the file does not exist.
        ValueError: if the file has another format.
    """
    if not Path(path).is_file():
        raise MissingDatasetError(
            f"The file {path} does not exist; download real.json from "
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
    raise ValueError(f"{path} must contain a list of lists of classes, but {reason}.")


def _wrong_real_labels(labels, known):
    if not isinstance(labels, list):
        return f"is not valid (it contains {reprlib.repr(labels)})"
    for place, classes in enumerate(labels):
        if not isinstance(classes, list):
            return f"is not valid (element {place} is {reprlib.repr(classes)})"
        if not all(type(label) is int and label in known for label in classes):
            return (
                f"has classes outside 0 to {known[-1]} (element {place} is "
                f"{reprlib.repr(classes)})"
            )
    return None


def _labels_of(file_names, real_labels):
    """Returns the labels of validation images by the numbers in their names."""
    labels = []
    for name in file_names:
        number = re.search(r"ILSVRC2012_val_(\d{8})\.\w+$", name)
        if not number or not 0 < int(number[1]) <= len(real_labels):
            raise ValueError(
                f"{name} is not one of the {len(real_labels)} images with ReaL labels, "
                "which are named ILSVRC2012_val_00000001.JPEG and so on."
            )
        labels.append(real_labels[int(number[1]) - 1])
    return labels
