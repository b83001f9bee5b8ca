"""TFDS's data sets: found, fetched and read."""

import numpy as np

from .folders import MissingDatasetError
from .pictures import Pictures
from .records import Records
from .storage import path_of


class UnknownDatasetError(MissingDatasetError):
    """TFDS has no data set of that name."""


def prepared(data, *splits):
    """The TFDS builder that a `Data` names, whose files are there, with these splits.

    Raises:
        UnknownDatasetError: if TFDS does not know it.
        MissingDatasetError: if they are not, with how to get them.
        ValueError: if there is no such split.
    """
    import tensorflow_datasets as tfds

    if data.data_dir is not None:
        path_of(data.data_dir)  # refuses URLs that cannot be read
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


def refuse_float_images(builder, *features):
    """Refuses features whose PNG files hold the bits of floating-point numbers."""
    for feature in features:
        if getattr(builder.info.features[feature], "np_dtype", None) == np.float32:
            raise ValueError(
                f"{builder.info.full_name} has floating-point numbers as {feature}, of "
                "which black and white are not known; prepare it with uint8 images."
            )


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
                "DIR/downloads/manual. A folder in ImageNet's own layout also works: "
                "--dataset FOLDER with train/n01440764/*.JPEG and so on, val/*.JPEG, "
                "--test-split val and --test-labels FILE."
            )
        raise MissingDatasetError(
            f"{name} is not in {builder.data_dir} and could not be downloaded "
            f"({type(error).__name__}: {str(error)[:1000]}). {advice}"
        ) from error


def split_of(builder, split, data, originals=False):
    """A split of a TFDS data set with an image and a label, as `Split`."""
    records = Records(builder, split)
    return Pictures(records, data, records.name, originals).split(records.labels)
