import re
import shutil
from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

from recipes.data import sources
from recipes.data.batches import Batches
from recipes.data.sources import MissingDatasetError, Pictures, decode, load_dataset
from recipes.experiment import Data
from tests.make_tiny_tfds import FOLDER, TEST, TRAIN, picture


def load(dataset, size=(8, 8), **options):
    return load_dataset(Data(dataset=str(dataset), image_size=size, **options))


def random_picture(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype="uint8")


def as_set(split):
    """Images with their labels, whatever their order."""
    return Counter(
        (np.asarray(image).tobytes(), int(label))
        for image, label in zip(split.images, split.labels, strict=True)
    )


# Decoding


@pytest.mark.parametrize(
    ("shape", "size", "part"),
    [
        ((8, 8), (8, 8), np.s_[:, :]),
        ((8, 12), (8, 8), np.s_[:, 2:10]),
        ((12, 8), (8, 8), np.s_[2:10, :]),
        ((12, 8), (4, 8), np.s_[4:8, :]),
    ],
)
def test_decode_keeps_the_largest_centred_part_of_the_wanted_proportions(
    shape, size, part
):
    pixels = random_picture(*shape, 3)
    np.testing.assert_array_equal(decode(pixels, size), pixels[part])


def test_crop_fraction_keeps_the_centre():
    pixels = random_picture(16, 24, 3)
    np.testing.assert_array_equal(decode(pixels, (14, 14), 0.875), pixels[1:15, 5:19])
    np.testing.assert_array_equal(decode(pixels, (8, 8), 0.5), pixels[4:12, 8:16])


def test_decode_resizes_with_antialiasing():
    stripes = np.zeros((64, 64, 3), "uint8")
    stripes[:, ::2] = 255
    small = decode(stripes, (8, 8))
    assert small.shape == (8, 8, 3)
    np.testing.assert_allclose(small[1:-1, 1:-1], 127.5, atol=8)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1)])
def test_grey_becomes_three_equal_channels(shape):
    pixels = random_picture(*shape)
    expected = np.repeat(pixels.reshape(8, 8, 1), 3, axis=-1)
    np.testing.assert_array_equal(decode(pixels, (8, 8)), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_pictures_of_every_mode_become_rgb(tmp_path, mode):
    path = tmp_path / "picture.png"
    image = Image.new("RGB", (8, 8), (51, 51, 51)).convert(mode)
    image.save(path)
    np.testing.assert_array_equal(decode(path, (8, 8)), np.full((8, 8, 3), 51))


@pytest.mark.parametrize("kept", [0, 20, 100])
def test_a_broken_picture_names_its_file(tmp_path, kept):
    path = tmp_path / "broken.png"
    Image.fromarray(random_picture(8, 8, 3)).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=re.escape(f"{path} is not a readable image")):
        decode(path, (8, 8))


def test_a_picture_with_a_broken_chunk_names_its_file(tmp_path):
    path = tmp_path / "broken.png"
    Image.fromarray(random_picture(8, 8, 3)).save(path)
    path.write_bytes(path.read_bytes().replace(b"IDAT", b"\x1a\xad\xe1P"))
    with pytest.raises(ValueError, match=re.escape(f"{path} is not a readable image")):
        decode(path, (8, 8))


def test_a_broken_record_is_called_a_record():
    with pytest.raises(ValueError, match="a record is not a readable image"):
        decode(b"nothing", (8, 8))


@pytest.mark.parametrize("fraction", [0, 1.5, -1])
def test_a_crop_fraction_beyond_the_picture_is_refused(fraction):
    with pytest.raises(ValueError, match=f"crop_fraction={fraction} must be more than"):
        load("digits", crop_fraction=fraction)


# Digits


def test_digits_are_divided_into_1437_and_360_with_each_class_in_proportion():
    dataset = load("digits")
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    assert dataset.class_names == tuple("0123456789")
    everywhere = np.bincount(load_digits().target)
    in_test = np.bincount(dataset.test.labels)
    assert np.abs(in_test - everywhere * 360 / 1797).max() < 1


def test_digits_are_those_of_scikit_learn_from_0_to_255():
    dataset, digits = load("digits"), load_digits()
    found = as_set(dataset.train) + as_set(dataset.test)
    grey = np.rint(digits.images * 255 / 16).astype("uint8")
    expected = Counter(
        (np.stack([image] * 3, axis=-1).tobytes(), int(label))
        for image, label in zip(grey, digits.target, strict=True)
    )
    assert found == expected
    assert (dataset.train.images.min(), dataset.train.images.max()) == (0, 255)
    assert dataset.train.images.dtype == np.uint8


# Arrays


def arrays(**changes):
    return {
        "x_train": random_picture(5, 8, 8, 3),
        "y_train": np.array([0, 1, 2, 0, 1]),
        "x_test": random_picture(3, 8, 8, 3),
        "y_test": np.array([2, 1, 0]),
        **changes,
    }


def test_arrays_are_taken_as_they_are(tmp_path):
    given = arrays(y_train=np.array([[0], [1], [2], [0], [1]]))
    np.savez(tmp_path / "set.npz", **given)
    dataset = load(tmp_path / "set.npz")
    np.testing.assert_array_equal(dataset.train.images, given["x_train"])
    np.testing.assert_array_equal(dataset.test.images, given["x_test"])
    np.testing.assert_array_equal(dataset.train.labels, [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(dataset.test.labels, [2, 1, 0])
    assert dataset.class_names == ("0", "1", "2")
    assert dataset.description == "set.npz"


def test_arrays_may_name_their_classes(tmp_path):
    np.savez(tmp_path / "set.npz", **arrays(class_names=["cat", "dog", "eel"]))
    assert load(tmp_path / "set.npz").class_names == ("cat", "dog", "eel")


def test_a_missing_file_of_arrays_says_how_to_write_one(tmp_path):
    with pytest.raises(MissingDatasetError, match=r"no file .*none\.npz.*numpy\.savez"):
        load(tmp_path / "none.npz")


def test_a_damaged_file_of_arrays_is_named(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"set\.npz is not a readable \.npz file"):
        load(path)


def test_missing_arrays_are_named(tmp_path):
    given = arrays()
    del given["y_test"], given["x_test"]
    np.savez(tmp_path / "set.npz", **given)
    with pytest.raises(ValueError, match=r"set\.npz has no x_test, y_test; it needs"):
        load(tmp_path / "set.npz")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"x_test": np.zeros((3, 8, 8, 3), "float32")}, r"float32 of shape \(3, 8, 8,"),
        ({"x_test": np.zeros((3, 64), "uint8")}, r"uint8 of shape \(3, 64\)"),
        ({"x_test": np.zeros((3, 3, 8, 8), "uint8")}, r"uint8 of shape \(3, 3, 8, 8\)"),
        ({"y_test": np.array([0, 1])}, "there are 2 labels"),
    ],
)
def test_arrays_that_are_no_images_with_labels_are_refused(tmp_path, changes, found):
    np.savez(tmp_path / "set.npz", **arrays(**changes))
    with pytest.raises(ValueError, match=f"x_test must hold uint8 images.*{found}"):
        load(tmp_path / "set.npz")


# Image folders


def save_pictures(folder, number, value):
    """So many pictures of one colour, whose red tells which is which."""
    folder.mkdir(parents=True)
    for i in range(number):
        Image.new("RGB", (8, 8), (i, value, value)).save(folder / f"{i}.png")


def colours(split):
    """Red, green and label of each picture, sorted."""
    triples = zip(split.images, split.labels, strict=True)
    return sorted((int(i[0, 0, 0]), int(i[0, 0, 1]), int(k)) for i, k in triples)


def test_a_folder_of_class_folders_sets_a_fifth_of_each_class_aside(tmp_path):
    save_pictures(tmp_path / "dog", 10, 200)
    save_pictures(tmp_path / "cat", 20, 100)
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.description == (
        f"{tmp_path.name}, one in five images set aside for testing"
    )
    np.testing.assert_array_equal(np.bincount(dataset.test.labels), [4, 2])
    every = [(i, 100, 0) for i in range(20)] + [(i, 200, 1) for i in range(10)]
    assert sorted(colours(dataset.train) + colours(dataset.test)) == sorted(every)


def test_a_folder_that_is_divided_already_stays_so(tmp_path):
    save_pictures(tmp_path / "train" / "dog", 3, 200)
    save_pictures(tmp_path / "train" / "cat" / "indoors", 2, 100)
    save_pictures(tmp_path / "val" / "dog", 1, 150)
    save_pictures(tmp_path / "val" / "cat", 1, 50)
    (tmp_path / "val" / "cat" / "notes.txt").write_text("not a picture")
    dataset = load(tmp_path, test_split="val")
    assert dataset.class_names == ("cat", "dog")
    assert colours(dataset.train) == [
        (0, 100, 0),
        (0, 200, 1),
        (1, 100, 0),
        (1, 200, 1),
        (2, 200, 1),
    ]
    assert colours(dataset.test) == [(0, 50, 0), (0, 150, 1)]


def test_too_few_pictures_to_divide_are_refused(tmp_path):
    save_pictures(tmp_path / "cat", 4, 0)
    save_pictures(tmp_path / "dog", 1, 0)
    with pytest.raises(ValueError, match="5 images of 2 classes, too few"):
        load(tmp_path)


def test_an_empty_class_folder_is_named(tmp_path):
    save_pictures(tmp_path / "cat", 5, 0)
    save_pictures(tmp_path / "dog", 0, 0)
    with pytest.raises(MissingDatasetError, match="dog has no images"):
        load(tmp_path)


def test_a_class_of_test_images_alone_is_refused(tmp_path):
    for folder in ("train/cat", "train/dog", "test/cat", "test/dog", "test/eel"):
        save_pictures(tmp_path / folder, 1, 0)
    with pytest.raises(ValueError, match=r"has the class folders eel, which .*train"):
        load(tmp_path)


def test_one_class_is_refused(tmp_path):
    save_pictures(tmp_path / "cat", 5, 0)
    with pytest.raises(MissingDatasetError, match=r"has 1 class folders.*at least two"):
        load(tmp_path)


def test_a_missing_folder_says_what_it_should_hold(tmp_path):
    with pytest.raises(MissingDatasetError, match=r"no folder .*pets.*for each class"):
        load(tmp_path / "pets")


def test_a_broken_picture_of_a_folder_is_named(tmp_path):
    save_pictures(tmp_path / "cat", 10, 0)
    save_pictures(tmp_path / "dog", 10, 0)
    (tmp_path / "dog" / "7.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"dog/7\.png is not a readable image"):
        load(tmp_path)


# TFDS


def load_tiny(data_dir=FOLDER, **options):
    return load("tiny", data_dir=data_dir, **options)


def expected_set(numbers):
    return Counter((picture(n).tobytes(), n % 2) for n in numbers)


@pytest.mark.parametrize("memory", [2 << 30, 0])
def test_a_tfds_data_set_is_read_whole(monkeypatch, memory):
    monkeypatch.setattr(sources, "MEMORY_BYTES", memory)
    dataset = load_tiny()
    assert isinstance(dataset.train.images, Pictures if memory == 0 else np.ndarray)
    assert as_set(dataset.train) == expected_set(TRAIN)
    assert as_set(dataset.test) == expected_set(TEST)
    assert dataset.class_names == ("even", "odd")
    assert dataset.description == "tiny (TFDS 1.0.0)"


def test_a_tfds_data_set_may_be_named_with_its_version():
    dataset = load("tiny:1.0.0", data_dir=FOLDER)
    assert as_set(dataset.test) == expected_set(TEST)


def test_images_come_in_the_same_order_from_memory_and_from_files(monkeypatch):
    kept = load_tiny()
    monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    decoded = load_tiny()
    for split in ("train", "test"):
        one, other = getattr(kept, split), getattr(decoded, split)
        np.testing.assert_array_equal(one.images, np.stack(list(other.images)))
        np.testing.assert_array_equal(one.labels, other.labels)


@pytest.mark.parametrize("source", ["tfds", "folder", "npz"])
def test_batches_are_the_same_from_memory_and_decoded_at_each_use(
    tmp_path, monkeypatch, source
):
    if source == "folder":
        save_pictures(tmp_path / "cat", 10, 100)
        save_pictures(tmp_path / "dog", 10, 200)
    np.savez(tmp_path / "set.npz", **arrays())
    names = {"tfds": "tiny", "folder": tmp_path, "npz": tmp_path / "set.npz"}

    def batches():
        split = load(names[source], size=(4, 6), data_dir=FOLDER).train
        batches = Batches(split, 3, batch_size=4)
        return isinstance(split.images, np.ndarray), [
            array for step in range(len(batches)) for array in batches[step]
        ]

    in_memory, kept = batches()
    monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    still_in_memory, decoded = batches()
    assert in_memory
    assert not still_in_memory
    for one, other in zip(kept, decoded, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_unknown_data_set_says_what_there_could_be():
    with pytest.raises(
        MissingDatasetError,
        match=r"dataset='nosuch' is neither 'digits', an \.npz file, an existing folder"
        ", nor the name of a TFDS data set",
    ):
        load("nosuch")


def test_an_unknown_split_names_the_known():
    with pytest.raises(ValueError, match="no split 'validation', but train, test; set"):
        load_tiny(test_split="validation")


def copy_tiny(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "tfds")
    return tmp_path / "tfds", tmp_path / "tfds" / "tiny" / "1.0.0"


def test_a_data_set_without_images_and_labels_names_what_it_has(tmp_path):
    data_dir, folder = copy_tiny(tmp_path)
    file = folder / "features.json"
    text = file.read_text()
    file.write_text(text.replace('"label": {', '"kind": {'))
    (folder / "label.labels.txt").rename(folder / "kind.labels.txt")
    with pytest.raises(ValueError, match="no image and label, but image, kind;"):
        load_tiny(data_dir)


@pytest.mark.parametrize("memory", [2 << 30, 0])
@pytest.mark.parametrize("lost", [1, 10, 130, 135])
def test_a_truncated_record_file_is_refused(tmp_path, monkeypatch, memory, lost):
    monkeypatch.setattr(sources, "MEMORY_BYTES", memory)
    data_dir, folder = copy_tiny(tmp_path)
    file = folder / "tiny-test.tfrecord-00001-of-00002"
    file.write_bytes(file.read_bytes()[:-lost])
    with pytest.raises(ValueError, match=r"is damaged \(.*prepare the data set again"):
        load_tiny(data_dir)


def test_an_absent_data_set_says_how_to_get_it(tmp_path, monkeypatch):
    def fail(builder, **options):
        raise ConnectionError("no internet here")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(MissingDatasetError) as error:
        load("imagenette/320px", data_dir=tmp_path)
    message = str(error.value)
    assert message.startswith(f"imagenette/320px is not in {tmp_path}")
    assert "ConnectionError: no internet here" in message
    assert "tfds.load('imagenette/320px', data_dir='DIR')" in message
    assert "give --data-dir DIR" in message


def test_the_first_images_of_a_split_are_at_most_all():
    test = load_tiny().test
    np.testing.assert_array_equal(test.first(3).images, test.images[:3])
    np.testing.assert_array_equal(test.first(3).labels, test.labels[:3])
    assert len(test.first(100)) == 7
