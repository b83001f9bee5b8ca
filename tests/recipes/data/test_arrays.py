import io
import random
import re
import zipfile

import numpy as np
import pytest

from recipes.data.sources import MissingDatasetError, load_dataset
from recipes.options.classification import Data

pytestmark = pytest.mark.any_backend


def load(dataset):
    return load_dataset(Data(dataset=str(dataset), image_size=(8, 8)))


def random_picture(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype="uint8")


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


def test_images_of_arrays_have_names(tmp_path, monkeypatch):
    np.savez(tmp_path / "set.npz", **arrays())
    monkeypatch.setattr("recipes.data.images.MEMORY_BYTES", 0)
    dataset = load(tmp_path / "set.npz")
    expected = f"image 2 of x_test in {tmp_path}/set.npz"
    assert dataset.test.images.name(2) == expected
    assert dataset.train.images.name(0) == expected.replace(
        "2 of x_test", "0 of x_train"
    )


def test_a_missing_file_of_arrays_says_how_to_write_one(tmp_path):
    with pytest.raises(MissingDatasetError, match=r"none\.npz does not .*numpy\.savez"):
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
    with pytest.raises(
        ValueError, match=r"set\.npz has no x_test, y_test; it must contain"
    ):
        load(tmp_path / "set.npz")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (
            {"x_test": np.zeros((3, 8, 8, 3), "float32")},
            r"float32 and shape \(3, 8, 8,",
        ),
        ({"x_test": np.zeros((3, 64), "uint8")}, r"uint8 and shape \(3, 64\)"),
        (
            {"x_test": np.zeros((3, 3, 8, 8), "uint8")},
            r"uint8 and shape \(3, 3, 8, 8\)",
        ),
        ({"y_test": np.array([0, 1])}, "for 2 labels"),
    ],
)
def test_arrays_that_are_no_images_with_labels_are_refused(tmp_path, changes, found):
    np.savez(tmp_path / "set.npz", **arrays(**changes))
    with pytest.raises(ValueError, match=f"x_test must contain uint8 images.*{found}"):
        load(tmp_path / "set.npz")


# Labels


@pytest.fixture
def of(tmp_path):
    """Loads a file of arrays in which some are as given."""

    def loaded(**changes):
        np.savez(tmp_path / "set.npz", **arrays(**changes))
        return load(tmp_path / "set.npz")

    return loaded


NAMES = ["dog", "cat", "eel", "dog", "cat"]


@pytest.mark.parametrize("as_given", [str, "S3", "U9"])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_names_are_labels(of, as_given, shape):
    train = np.array(NAMES).astype(as_given).reshape(shape)
    dataset = of(y_train=train, y_test=np.array(["eel", "cat", "dog"]))
    assert dataset.class_names == ("cat", "dog", "eel")
    assert dataset.train.labels.tolist() == [1, 0, 2, 1, 0]
    assert dataset.test.labels.tolist() == [2, 0, 1]
    assert dataset.test.labels.dtype == "int64"


def test_names_are_labels_in_the_order_of_class_names(of):
    names = np.array(["eel", "dog ", "cafe\u0301"])
    train = np.array(["caf\u00e9", "eel", "dog", "dog", "eel"])
    dataset = of(y_train=train, y_test=np.array([0, 2, 1]), class_names=names)
    assert dataset.class_names == ("eel", "dog", "caf\u00e9")
    assert dataset.train.labels.tolist() == [2, 0, 1, 1, 0]
    assert dataset.test.labels.tolist() == [0, 2, 1]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint64", "float32", "float64"])
def test_whole_numbers_of_any_type_are_labels(of, dtype):
    dataset = of(y_train=np.array([2, 0, 1, 2, 0], dtype))
    assert dataset.train.labels.tolist() == [2, 0, 1, 2, 0]
    assert dataset.train.labels.dtype == "int64"


def test_class_names_may_be_bytes(of):
    names = np.array(["cat", "caf\u00e9", "eel"])
    dataset = of(class_names=np.char.encode(names, "utf-8"))
    assert dataset.class_names == ("cat", "caf\u00e9", "eel")


TEN_TO_THE_12 = np.array([0, 1, 2, 10**12, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"y_train": [0.9, 0, 1, 2, 0]},
            "y_train has the label 0.9 for image 0; label",
        ),
        ({"y_train": [0, 1, np.nan, 2, 0]}, "y_train has the label nan for image 2"),
        ({"y_test": [0, np.inf, 1]}, "y_test has the label inf for image 1"),
        (
            {"y_train": np.array([0, 1, 2, 0, 1], object)},
            "y_train contains Python objects",
        ),
        ({"y_train": np.array(NAMES, object)}, r"Python objects, .*\.astype\(str\)"),
        (
            {"class_names": np.array([*"abc"], object)},
            "class_names contains Python objects",
        ),
        ({"y_train": np.arange(5) > 2}, "y_train has dtype bool; labels must be whole"),
        (
            {"y_train": np.zeros(5, complex)},
            "y_train has dtype complex128; labels must be",
        ),
        (
            {"y_train": np.zeros(5, "M8[s]")},
            r"y_train has dtype datetime64\[s\]; labels must be",
        ),
        (
            {"y_train": np.eye(5)},
            r"y_train has shape \(5, 5\).* with \.argmax\(axis=1",
        ),
        (
            {"y_train": np.zeros((1, 5), int)},
            r"y_train has shape \(1, 5\); labels must be",
        ),
        (
            {"y_test": np.array(1)},
            r"y_test has shape \(\); labels must be one number or",
        ),
        (
            {"y_train": [1, 2, 3, 1, 2]},
            "y_train has the label 1, but no label 0; without",
        ),
        ({"y_train": [0, 1, 3, 0, 1]}, "the label 3, but no label 2; .* from 0 to 2"),
        ({"y_train": [0, 1, -1, 0, 1]}, "y_train has the label -1; labels are"),
        (
            {"y_train": TEN_TO_THE_12},
            "the label 1000000000000, but no label 3; without",
        ),
        ({"y_train": TEN_TO_THE_12.astype(float)}, "the label 1000000000000, but"),
        (
            {"y_train": [0, 1, 1e300, 0, 1]},
            r"y_train has the label 1e\+300, which is too large",
        ),
        (
            {"y_test": [0, 1, 3]},
            "y_test has labels from 0 to 3, but the 3 classes are nu",
        ),
        ({"y_test": [0, -1, 2]}, "y_test has labels from -1 to 2, but the 3 classes"),
        (
            {"y_train": [1, 2, 3, 1, 2], "class_names": [*"abc"]},
            "y_train has labels from 1 to 3, .* 0 to 2. The labels start at 1",
        ),
        (
            {"y_train": TEN_TO_THE_12, "class_names": [*"abc"]},
            "y_train has labels from 0 to 1000000000000, but the 3 classes are n",
        ),
        ({"y_train": NAMES}, "y_train contains names, but y_test contains numbers"),
        (
            {"y_train": NAMES, "y_test": ["cat", "fox", "owl"]},
            "y_test has fox, owl, but y_train has only cat",
        ),
        (
            {"y_train": NAMES, "class_names": ["cat", "dog"]},
            "y_train has eel, but class_names has only cat, dog",
        ),
        ({"y_train": ["dog", "", *NAMES[2:]]}, "y_train has no name for image 1"),
        (
            {"y_train": [b"\xe9"] * 5},
            r"y_train contains bytes .* UTF-8 \(b'\\xe9'\); save te",
        ),
        (
            {"class_names": [b"\xe9", b"a", b"b"]},
            "class_names contains bytes that are not",
        ),
        (
            {"class_names": [0, 1, 2]},
            r"class_names has dtype int64 and shape \(3,\), but",
        ),
        (
            {"class_names": "abc"},
            r"class_names has dtype <U3 and shape \(\), but",
        ),
        (
            {"class_names": ["cat", "dog", " cat"]},
            r"class_names has 'cat' twice \('cat'",
        ),
        (
            {"class_names": ["cat", "dog"]},
            "y_train has labels from 0 to 2, but the 2 cla",
        ),
        (
            {"class_names": ["cat", "", "dog"]},
            r"class_names\[1\] is empty; every class",
        ),
        (
            {"y_train": [0] * 5, "y_test": [0] * 3},
            "training images of 0 only; training requires",
        ),
    ],
)
def test_what_are_no_labels_is_refused_by_file_and_array(of, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        of(**changes)
    assert re.match(r"\S*/set\.npz\b", str(caught.value))
    assert len(str(caught.value)) < 400


def test_a_class_without_images_is_named(of):
    names = np.array(["cat", "dog", "eel", "fox"])
    with pytest.warns(UserWarning) as caught:
        dataset = of(class_names=names, y_test=[2, 3, 2])
    assert dataset.class_names == ("cat", "dog", "eel", "fox")
    training, test = (str(warning.message) for warning in caught)
    assert training.endswith(
        "set.npz has no training images for 1 of its 4 classes: fox."
    )
    assert test.endswith("set.npz has no test images for 2 of its 4 classes: cat, dog.")


def test_a_single_array_is_no_file_of_arrays(tmp_path):
    with (tmp_path / "set.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(
        ValueError, match=r"set\.npz contains a single array; it must be"
    ):
        load(tmp_path / "set.npz")


def test_a_damaged_array_is_named(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, **arrays())
    content = path.read_bytes()
    place = content.index(arrays()["y_train"].tobytes())
    path.write_bytes(content[:place] + b"\1" + content[place + 1 :])
    with pytest.raises(ValueError, match=r"set\.npz: y_train is damaged \(Bad CRC-32"):
        load(path)


def test_any_damage_of_a_compressed_file_is_a_sentence(tmp_path):
    path = tmp_path / "set.npz"
    np.savez_compressed(path, **arrays())
    good = path.read_bytes()
    chance = random.Random(0)
    for _ in range(100):
        content = bytearray(good)
        for _ in range(3):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content)
        try:
            load(path)
        except (ValueError, MissingDatasetError) as error:
            assert "set.npz" in str(error)


def test_an_array_that_is_not_in_its_file_takes_no_memory(tmp_path):
    header = io.BytesIO()
    huge = {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8)}
    np.lib.format.write_array_header_1_0(header, huge)
    path = tmp_path / "set.npz"
    np.savez(path, **{k: v for k, v in arrays().items() if k != "x_train"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", header.getvalue())
    with pytest.raises(ValueError, match=r"x_train is damaged \(its header says"):
        load(path)


def test_a_negative_label_is_named(tmp_path):
    np.savez(tmp_path / "set.npz", **arrays(y_train=[-1, 0, 1, 0, 1]))
    with pytest.raises(ValueError, match="label -1; labels are whole numbers from 0"):
        load(tmp_path / "set.npz")
