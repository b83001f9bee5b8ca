"""A tiny ImageNet in TFDS's files, and in the layout of its own archives.

    KERAS_BACKEND=tensorflow python -m tests.recipes.imagenet

writes `tests/data/tfds/imagenet2012`: TFDS's own builder makes it from archives with
few pictures. Run once, where TensorFlow is installed; the tests read the files
everywhere.
"""

import io
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parents[1] / "data" / "tfds"
CLASSES = {"n01440764": 0, "n02105855": 230, "n15075141": 999}
"""Synsets of the training pictures and their labels."""
PER_CLASS = 8
VALIDATION = ("n01751748", "n09193705", "n02105855", "n04263257", "n03125729")
"""Synsets of the first pictures of the true validation set."""
VALIDATION_LABELS = (65, 970, 230, 809, 516)


def size(number):
    """Width and height of picture `number`; no picture is square."""
    return (48 + 4 * (number % 4), 40) if number % 2 else (36, 44 + 4 * (number % 4))


def color(number):
    """Red, green and blue of picture `number`."""
    return (10 * number, 255 - 10 * number, 128)


def jpeg(number):
    """Picture `number` as bytes of a file."""
    stream = io.BytesIO()
    Image.new("RGB", size(number), color(number)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def training_pictures():
    """Name of the file, synset and number of each training picture."""
    for first, synset in enumerate(CLASSES):
        for i in range(PER_CLASS):
            yield f"{synset}_{i}.JPEG", synset, first * PER_CLASS + i


def validation_pictures():
    """Name of the file and number of each validation picture."""
    for i in range(len(VALIDATION)):
        yield f"ILSVRC2012_val_{i + 1:08}.JPEG", i


def numbers_of(images):
    """Which pictures these are, by their red."""
    reds = [np.median(np.asarray(image)[..., 0]) for image in images]
    return [round(red / 10) for red in reds]


def write_folder(folder):
    """Writes them in ImageNet's own layout; the path of the file of test labels."""
    for name, synset, number in training_pictures():
        path = folder / "train" / synset / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    (folder / "val").mkdir()
    for name, number in validation_pictures():
        (folder / "val" / name).write_bytes(jpeg(number))
    synsets = [list(CLASSES)[number % 3] for _, number in validation_pictures()]
    (folder / "labels.txt").write_text("\n".join(synsets) + "\n")
    return folder / "labels.txt"


def _add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def main():
    import tensorflow_datasets as tfds

    # TFDS leaves empty folders of downloads where it prepares; they stay behind.
    with tempfile.TemporaryDirectory() as manual:
        with tarfile.open(f"{manual}/ILSVRC2012_img_train.tar", "w") as archive:
            for synset in CLASSES:
                stream = io.BytesIO()
                with tarfile.open(fileobj=stream, mode="w") as inner:
                    for name, other, number in training_pictures():
                        if other == synset:
                            _add(inner, name, jpeg(number))
                _add(archive, f"{synset}.tar", stream.getvalue())
        with tarfile.open(f"{manual}/ILSVRC2012_img_val.tar", "w") as archive:
            for name, number in validation_pictures():
                _add(archive, name, jpeg(number))
        tfds.builder("imagenet2012", data_dir=FOLDER).download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=manual, num_shards=2, try_download_gcs=False
            )
        )


if __name__ == "__main__":
    main()
