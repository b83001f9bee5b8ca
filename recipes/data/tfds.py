"""Finding, downloading and reading TFDS data sets."""

import numpy as np

from .folders import MissingDatasetError
from .images import Images
from .records import Records
from .storage import path_of


class UnknownDatasetError(MissingDatasetError):
    """TFDS has no data set of this name."""


def prepare(data, *splits):
    """Returns the TFDS builder of a `Data`, with downloaded files and these splits.

    Raises:
        UnknownDatasetError: if TFDS does not know the data set.
        MissingDatasetError: if the files are missing and cannot be downloaded; the
            message explains how to get them.
        ValueError: if a split does not exist.
    """
    import tensorflow_datasets as tfds

    if data.data_dir is not None:
        path_of(data.data_dir)  # raises an error for unsupported URLs
    try:
        builder = tfds.builder(data.dataset, data_dir=data.data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise UnknownDatasetError(
            f"dataset={data.dataset!r} is not 'digits', an .npz file, an existing "
            "folder, or the name of a TFDS data set "
            "(see https://www.tensorflow.org/datasets/catalog/overview)."
        ) from error
    if not builder.info.splits:
        _download(builder, data.dataset)
    for split in splits:
        if split not in builder.info.splits:
            raise ValueError(
                f"{data.dataset} has no split {split!r}; set --train-split and "
                f"--test-split to some of {', '.join(builder.info.splits)}."
            )
    return builder


def refuse_float_images(builder, *features):
    """Raises a ValueError for images stored as floating-point numbers."""
    for feature in features:
        if getattr(builder.info.features[feature], "np_dtype", None) == np.float32:
            raise ValueError(
                f"{builder.info.full_name} stores {feature} as floating-point numbers "
                "of unknown range; prepare it with uint8 images."
            )


def _download(builder, name):
    try:
        builder.download_and_prepare()
    except Exception as error:
        advice = (
            "Prepare it on a machine with internet access and TensorFlow, "
            '`python -c "import tensorflow_datasets as tfds; '
            f"tfds.load('{name}', data_dir='DIR')\"`, and use --data-dir DIR."
        )
        if builder.name == "imagenet2012":
            advice += (
                " First put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from "
                "https://image-net.org/download-images into DIR/downloads/manual. A "
                "folder in ImageNet's original layout also works: "
                "--dataset FOLDER with train/n01440764/*.JPEG and so on, val/*.JPEG, "
                "--test-split val and --test-labels FILE."
            )
        raise MissingDatasetError(
            f"{name} is not in {builder.data_dir} and could not be downloaded "
            f"({type(error).__name__}: {str(error)[:1000]}). {advice}"
        ) from error


def load_split(builder, split, data, originals=False):
    """Returns a split of a TFDS classification data set as `Split`."""
    records = Records(builder, split)
    return Images(records, data, records.name, originals).split(records.labels)
