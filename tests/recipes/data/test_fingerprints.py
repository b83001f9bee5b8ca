import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from recipes.data.fingerprints import FORM, dataset_fingerprint, describe_differences
from recipes.data.images import Split
from recipes.data.segmentation import pairs
from recipes.data.sources import Dataset, load_dataset
from recipes.files import check_form
from recipes.options.classification import Data
from recipes.options.segmentation import Data as SegmentationData
from tests.recipes.test_segment import write_pictures

pytestmark = pytest.mark.any_backend


def write_image(path, size=(8, 8), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), "uint8")
    Image.fromarray(pixels).save(path)


def write_folder(folder, classes=("a", "b"), images=3):
    for name in classes:
        for split, number in (("train", images), ("test", 2)):
            for i in range(number):
                write_image(folder / split / name / f"{i}.png")
    return folder


def data_of(dataset, **options):
    """The data of a run, read from JSON."""
    data = Data(dataset=str(dataset), image_size=(8, 8), **options)
    found = json.loads(json.dumps(dataset_fingerprint(load_dataset(data))))
    check_form(found, FORM)
    return found


def differences(before, now):
    found = list(describe_differences(before, now))
    assert bool(found) == (before != now)
    return found


def test_a_folder_is_known_by_names_sizes_and_classes(tmp_path):
    found = data_of(write_folder(tmp_path / "data"))
    assert found["description"] == "data"
    assert found["class_names"] == ["a", "b"]
    assert found["train"]["classes"] == found["test"]["classes"] == [0, 1]
    assert (found["train"]["images"], found["test"]["images"]) == ([3, 3], [2, 2])


@pytest.mark.parametrize("originals", [False, True])
def test_a_folder_that_was_moved_and_touched_is_the_same(tmp_path, originals):
    folder = write_folder(tmp_path / "data")

    def found():
        data = Data(dataset=str(folder), image_size=(8, 8))
        return dataset_fingerprint(load_dataset(data, originals=originals))

    before = found()
    folder = shutil.move(folder, tmp_path / "elsewhere" / "data")
    for path in folder.rglob("*.png"):
        os.utime(path, (1, 1))
    assert found() == before


def test_what_is_decoded_when_asked_for_is_the_same_as_in_memory(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "data")
    before = data_of(folder)
    monkeypatch.setattr("recipes.data.images.MEMORY_BYTES", 0)
    assert data_of(folder) == before


def more(folder):
    write_folder(folder, images=5)


def renamed(folder):
    for split in ("train", "test"):
        (folder / split / "a").rename(folder / split / "z")


def new_class(folder):
    write_folder(folder, classes="c")


def fewer_classes(folder):
    write_folder(folder, classes="c")
    before = data_of(folder)
    for split in ("train", "test"):
        shutil.rmtree(folder / split / "c")
    return before


def moved_image(folder):
    (folder / "train" / "a" / "2.png").rename(folder / "train" / "b" / "3.png")


def renamed_image(folder):
    (folder / "train" / "b" / "2.png").rename(folder / "train" / "b" / "3.png")


def other_size(folder):
    write_image(folder / "test" / "a" / "1.png", size=(9, 9))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (more, ["6 training images, now 10"]),
        (renamed, ["class 'a' is now 'z'"]),
        (
            new_class,
            [
                "with the new class 'c'",
                "6 training images, now 9",
                "4 test images, now 6",
            ],
        ),
        (
            fewer_classes,
            ["without class 'c'", "9 training images, now 6", "6 test images, now 4"],
        ),
        (
            moved_image,
            [
                "3 training images of class 'a', now 2",
                "3 training images of class 'b', now 4",
            ],
        ),
        (
            renamed_image,
            ["3 training images of class 'b' with different names, sizes or pixels"],
        ),
        (
            other_size,
            ["2 test images of class 'a' with different names, sizes or pixels"],
        ),
    ],
)
def test_what_changed_in_a_folder_is_said(tmp_path, change, expected):
    folder = write_folder(tmp_path / "data")
    before = data_of(folder)
    before = change(folder) or before
    assert differences(before, data_of(folder)) == expected


def test_broken_images_count_as_they_are_listed(tmp_path):
    folder = write_folder(tmp_path / "data")
    before = data_of(folder)
    path = folder / "train" / "a" / "1.png"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.warns(UserWarning, match="Skipped 1 of 6 images"):
        found = data_of(folder)
    assert differences(before, found) == ["0 training images skipped, now 1"]
    assert found["train"] == before["train"] | {"left_out": 1}


def write_arrays(path, change=lambda arrays: None):
    random = np.random.default_rng(0)
    arrays = {}
    for split, number in (("train", 6), ("test", 4)):
        shape = (number, 8, 8, 3)
        arrays[f"x_{split}"] = random.integers(0, 256, shape, "uint8")
        arrays[f"y_{split}"] = np.arange(number) % 2
    change(arrays)
    np.savez(path, **arrays)
    return path


def one_pixel(arrays):
    arrays["x_train"][4, 0, 0, 0] ^= 1


def reversed_order(arrays):
    for name in ("x_train", "y_train"):
        arrays[name] = np.concatenate([arrays[name][::2], arrays[name][1::2]])


def one_label(arrays):
    arrays["y_test"][0] = 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            one_pixel,
            ["3 training images of class '0' with different names, sizes or pixels"],
        ),
        (reversed_order, ["the training images in a different order"]),
        (
            one_label,
            ["2 test images of class '0', now 1", "2 test images of class '1', now 3"],
        ),
    ],
)
def test_arrays_are_known_by_pixels_and_labels(tmp_path, change, expected):
    before = data_of(write_arrays(tmp_path / "a.npz"))
    assert differences(before, data_of(write_arrays(tmp_path / "a.npz"))) == []
    now = data_of(write_arrays(tmp_path / "a.npz", change))
    assert differences(before, now) == expected


def test_another_version_of_tfds_is_said(tmp_path):
    before = data_of(write_arrays(tmp_path / "a.npz"))
    now = {**before, "description": "cifar10 (TFDS 3.0.3)"}
    assert differences(before, now) == ["a.npz, now cifar10 (TFDS 3.0.3)"]


def test_messages_are_short_and_classes_in_another_order_are_said(tmp_path):
    before = data_of(write_folder(tmp_path / "data"))
    swapped = {**before, "class_names": ["b", "a"]}
    assert differences(before, swapped) == ["the classes are in a different order"]
    other = {**before, "class_names": [str(i) * 1000 for i in range(1000)]}
    assert sum(map(len, differences(before, other))) < 400
    damaged = {**before, "train": {**before["train"], "images": [3], "classes": [7]}}
    assert differences(damaged, before)


def test_pairs_are_known_by_the_names_and_sizes_of_both(tmp_path):
    folder = write_pictures(tmp_path / "data")

    def found():
        data = SegmentationData(
            str(folder), class_names=("red", "green", "blue"), ignored_label=11
        )
        return dataset_fingerprint(pairs.load_pairs(data))

    before = found()
    check_form(before, FORM)
    assert (before["train"]["images"], before["test"]["images"]) == ([8], [5])
    folder = shutil.move(folder, tmp_path / "elsewhere" / "data")
    assert found() == before
    Image.new("L", (40, 24)).save(folder / "val" / "labels" / "1.png")
    expected = ["5 test images with different names, sizes or pixels"]
    assert differences(before, found()) == expected
    for place in ("images", "labels"):
        (folder / "train" / place / "7.png").unlink()
    assert differences(before, found())[0] == "8 training images, now 7"


def test_of_several_classes_for_an_image_the_number_is_known():
    split = Split(np.zeros((3, 8, 8, 3), "uint8"), np.ones((3, 5), bool))
    assert split.fingerprint()["images"] == [3]
    assert dataset_fingerprint(Dataset(split, split, ("a",), "x"))["train"][
        "classes"
    ] == [-1]
