"""Names in files and folders, whatever encodes them and however they are composed."""

import codecs
import unicodedata
import warnings

import pytest
from PIL import Image

from recipes.data.labels import class_indices, read_names, read_text
from recipes.data.sources import load_dataset
from recipes.options.classification import Data

pytestmark = pytest.mark.any_backend

CAFE, TEE = "caf\u00e9", "th\u00e9"
DECOMPOSED = unicodedata.normalize("NFD", CAFE)


@pytest.mark.parametrize(
    "encode",
    [
        str.encode,
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        lambda text: text.encode("utf-32"),
        lambda text: unicodedata.normalize("NFD", text).encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", " \n\t").encode(),
        lambda text: f"{text}\n\n \n".encode(),
    ],
)
def test_names_are_read_in_every_encoding_that_says_what_it_is(tmp_path, encode):
    (tmp_path / "names.txt").write_bytes(encode(f"{CAFE}\n{TEE}\n{CAFE}"))
    assert read_names(tmp_path / "names.txt") == [CAFE, TEE, CAFE]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            f"dog\ncat\n{CAFE}\n".encode("latin-1"),
            r"is not UTF-8 \(line 3\); save it as",
        ),
        (f"{CAFE}\n".encode("cp1252"), r"names\.txt is not UTF-8 \(line 1\)"),
        (
            "cat\ndog\n".encode("utf-16-le"),
            r"contains a zero byte \(line 1\), as in UTF-16 wit",
        ),
        (
            codecs.BOM_UTF16_LE + b"a",
            r"byte order mark of UTF-16, but is not \(line 1\)",
        ),
        (b"cat\n\ndog\n", r"names\.txt has no name in line 2; every line"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(tmp_path, content, message):
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_names(tmp_path / "names.txt")


def test_a_missing_file_is_another_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "names.txt")


def test_places_are_by_name():
    assert class_indices(["b", "a", "b"], ("a", "b"), "x", "y").tolist() == [1, 0, 1]
    assert class_indices([], ("a",), "x", "y").dtype == "int64"
    with pytest.raises(ValueError, match="F has c, d, but G has only a, b"):
        class_indices(["d", "a", "c", "c"], ("a", "b"), "F has", "G has")


# Folders


def save_pictures(folder, value, number=1):
    folder.mkdir(parents=True)
    for i in range(number):
        Image.new("RGB", (8, 8), (i, value, value)).save(folder / f"{i}.png")


def load(folder, train=True, **options):
    data = Data(dataset=str(folder), image_size=(8, 8), **options)
    return load_dataset(data, train)


def values(split):
    """Green and label of each picture."""
    pairs = zip(split.images, split.labels, strict=True)
    return sorted((int(image[0, 0, 1]), int(label)) for image, label in pairs)


def test_class_folders_are_one_however_their_names_are_composed(tmp_path):
    save_pictures(tmp_path / "train" / CAFE, 10)
    save_pictures(tmp_path / "train" / "tea", 20)
    save_pictures(tmp_path / "test" / DECOMPOSED, 30)
    save_pictures(tmp_path / "test" / "tea", 40)
    dataset = load(tmp_path)
    assert dataset.class_names == (CAFE, "tea")
    assert values(dataset.train) == [(10, 0), (20, 1)]
    assert values(dataset.test) == [(30, 0), (40, 1)]


def test_classes_are_numbered_alike_however_their_names_are_composed(tmp_path):
    # Decomposed, the accent comes after the letter z.
    for form in ("NFC", "NFD"):
        for value, name in ((10, "\u00e9a"), (20, "ez"), (30, "a")):
            save_pictures(tmp_path / form / unicodedata.normalize(form, name), value, 5)
    composed, decomposed = (load(tmp_path / form) for form in ("NFC", "NFD"))
    assert composed.class_names == decomposed.class_names == ("a", "ez", "\u00e9a")
    assert values(composed.train) == values(decomposed.train)


def test_two_class_folders_of_one_name_are_both_named(tmp_path):
    for name in (CAFE, DECOMPOSED, "tea"):
        save_pictures(tmp_path / name, 0, 5)
    with pytest.raises(ValueError, match="the list of class folders has .* twice") as e:
        load(tmp_path)
    assert str(tmp_path) in str(e.value)
    assert r"'caf\xe9'" in str(e.value) and r"'cafe\u0301'" in str(e.value)


def test_a_class_folder_that_is_no_text_is_refused(tmp_path):
    save_pictures(tmp_path / "tea", 0, 5)
    save_pictures(tmp_path / "caf\udce9", 0, 5)  # Latin-1, as an old archive has it
    with pytest.raises(ValueError, match="is not valid Unicode; rename the class"):
        load(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_file_of_test_labels_names_class_folders(tmp_path, encoding, form):
    save_pictures(tmp_path / "train" / DECOMPOSED, 10)
    save_pictures(tmp_path / "train" / "tea", 20)
    save_pictures(tmp_path / "test", 30, 3)
    file = tmp_path / "labels.txt"
    text = unicodedata.normalize(form, f"tea \n{CAFE}\ntea\n")
    file.write_text(text, encoding=encoding)
    dataset = load(tmp_path, test_labels=file)
    assert dataset.class_names == (CAFE, "tea")
    assert dataset.test.labels.tolist() == [1, 0, 1]
    alone = load(tmp_path, train=False, test_labels=file)
    assert alone.test.labels.tolist() == [1, 0, 1]


def test_a_class_without_test_images_is_named(tmp_path):
    for name in ("cat", "dog", "eel"):
        save_pictures(tmp_path / "train" / name, 0)
    save_pictures(tmp_path / "test" / "dog", 0)
    with pytest.warns(
        UserWarning, match="has no test images for 2 .* classes: cat, eel"
    ):
        assert load(tmp_path).test.labels.tolist() == [1]
    with warnings.catch_warnings():  # evaluation says it of the model
        warnings.simplefilter("error")
        assert load(tmp_path, train=False).class_names == ("cat", "dog", "eel")


def test_a_class_of_which_every_training_image_is_broken_is_named(tmp_path):
    for name in ("cat", "dog", "eel"):
        for split in ("train", "test"):
            save_pictures(tmp_path / split / name, 0)
    (tmp_path / "train" / "eel" / "0.png").write_bytes(b"no picture")
    with pytest.warns(
        UserWarning, match="has no training images for 1 of its 3 .*: eel"
    ):
        assert len(load(tmp_path).train) == 2
    (tmp_path / "train" / "dog" / "0.png").write_bytes(b"no picture")
    with (
        pytest.warns(UserWarning, match="Skipped 2 of 3 images"),
        pytest.raises(ValueError, match="has training images of cat only; training"),
    ):
        load(tmp_path)
