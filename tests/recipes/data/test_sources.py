import re
import shutil
import warnings
from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

from keras_cbvit.images import BrokenImageError
from recipes.data.batches import Batches
from recipes.data.folders import MissingDatasetError
from recipes.data.images import Images
from recipes.data.sources import load_dataset
from recipes.options.classification import Data
from tests.make_tiny_tfds import FOLDER, TEST, TRAIN, picture
from tests.recipes import imagenet
from tests.recipes.data.test_arrays import arrays

pytestmark = pytest.mark.any_backend


def load(dataset, size=(8, 8), **options):
    return load_dataset(Data(dataset=str(dataset), image_size=size, **options))


def as_set(split):
    """Images with their labels, whatever their order."""
    return Counter(
        (np.asarray(image).tobytes(), int(label))
        for image, label in zip(split.images, split.labels, strict=True)
    )


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
    gray = np.rint(digits.images * 255 / 16).astype("uint8")
    expected = Counter(
        (np.stack([image] * 3, axis=-1).tobytes(), int(label))
        for image, label in zip(gray, digits.target, strict=True)
    )
    assert found == expected
    assert (dataset.train.images.min(), dataset.train.images.max()) == (0, 255)
    assert dataset.train.images.dtype == np.uint8


# Image folders


def save_pictures(folder, number, value):
    """So many pictures of one color, whose red tells which is which."""
    folder.mkdir(parents=True)
    for i in range(number):
        Image.new("RGB", (8, 8), (i, value, value)).save(folder / f"{i}.png")


def colors(split):
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
    assert sorted(colors(dataset.train) + colors(dataset.test)) == sorted(every)


def test_a_folder_that_is_divided_already_stays_so(tmp_path):
    save_pictures(tmp_path / "train" / "dog", 3, 200)
    save_pictures(tmp_path / "train" / "cat" / "indoors", 2, 100)
    save_pictures(tmp_path / "val" / "dog", 1, 150)
    save_pictures(tmp_path / "val" / "cat", 1, 50)
    (tmp_path / "val" / "cat" / "notes.txt").write_text("not a picture")
    dataset = load(tmp_path, test_split="val")
    assert dataset.class_names == ("cat", "dog")
    assert colors(dataset.train) == [
        (0, 100, 0),
        (0, 200, 1),
        (1, 100, 0),
        (1, 200, 1),
        (2, 200, 1),
    ]
    assert colors(dataset.test) == [(0, 50, 0), (0, 150, 1)]


@pytest.mark.parametrize("link, target", [("val", "train"), ("val/cat", "train/cat")])
def test_images_that_are_in_both_splits_are_refused(link, target, tmp_path):
    for name in ("cat", "dog"):
        save_pictures(tmp_path / "train" / name, 3, 200)
        if link != "val":
            save_pictures(tmp_path / "val" / name, 3, 200)
    if link != "val":
        (tmp_path / link).rename(tmp_path / "elsewhere")
    (tmp_path / link).symlink_to(tmp_path / target)
    with pytest.raises(ValueError, match="overlap; an image cannot belong to both"):
        load(tmp_path, test_split="val")
    both = load(tmp_path, test_split="train")  # asked for in words
    assert colors(both.test) == colors(both.train)


def test_too_few_pictures_to_divide_are_refused(tmp_path):
    save_pictures(tmp_path / "cat", 4, 0)
    save_pictures(tmp_path / "dog", 1, 0)
    with pytest.raises(ValueError, match="5 images of 2 classes, too few"):
        load(tmp_path)


def test_an_empty_class_folder_is_named(tmp_path):
    save_pictures(tmp_path / "cat", 5, 0)
    save_pictures(tmp_path / "dog", 0, 0)
    with pytest.raises(MissingDatasetError, match="dog contains no images"):
        load(tmp_path)


def test_a_class_of_test_images_alone_is_refused(tmp_path):
    for folder in ("train/cat", "train/dog", "test/cat", "test/dog", "test/eel"):
        save_pictures(tmp_path / folder, 1, 0)
    with pytest.raises(ValueError, match=r"has the class folders eel, but the train"):
        load(tmp_path)


def test_one_class_is_refused(tmp_path):
    save_pictures(tmp_path / "cat", 5, 0)
    with pytest.raises(MissingDatasetError, match=r"has 1 class folders.*at least two"):
        load(tmp_path)


def test_a_missing_folder_says_what_it_should_hold(tmp_path):
    with pytest.raises(MissingDatasetError, match=r"pets does not exist.*per class"):
        load(tmp_path / "pets")


# Broken pictures


def folder_with_broken(tmp_path, *broken, number=10):
    save_pictures(tmp_path / "train" / "cat", number, 100)
    save_pictures(tmp_path / "train" / "dog", number, 200)
    save_pictures(tmp_path / "test" / "cat", 1, 100)
    save_pictures(tmp_path / "test" / "dog", 1, 200)
    for name in broken:
        (tmp_path / name).write_bytes(b"not a picture")


def test_broken_pictures_are_left_out_with_a_warning_that_names_them(tmp_path):
    folder_with_broken(tmp_path, "train/cat/9.png", "train/dog/7.png")
    with pytest.warns(UserWarning) as caught:
        dataset = load(tmp_path)
    assert colors(dataset.train) == sorted(
        [(i, 100, 0) for i in range(9)]
        + [(i, 200, 1) for i in range(10) if i != 7]  # labels stay with their images
    )
    assert (len(dataset.train), len(dataset.train.images)) == (18, 18)
    assert (dataset.train.broken, dataset.test.broken) == (2, 0)
    (warning,) = caught
    message = str(warning.message)
    assert message.startswith(
        f"Skipped 2 of 20 images: {tmp_path}/train/cat/9.png is not a readable"
    )
    assert f"{tmp_path}/train/dog/7.png is not a readable" in message
    assert "…" not in message


def test_a_warning_names_five_broken_pictures(tmp_path):
    folder_with_broken(tmp_path, *(f"train/cat/{i}.png" for i in range(6)))
    with pytest.warns(UserWarning, match="^Skipped 6 of 20 images: .*…$") as caught:
        assert load(tmp_path).train.broken == 6
    named = re.findall(r"train/cat/(\d)\.png is", str(caught[0].message))
    assert named == ["0", "1", "2", "3", "4"]


def test_good_pictures_need_no_warning(tmp_path):
    folder_with_broken(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(tmp_path).train.broken == 0


def test_strict_loading_refuses_a_broken_picture(tmp_path):
    folder_with_broken(tmp_path, "train/dog/7.png")
    with pytest.raises(
        BrokenImageError, match=rf"^{tmp_path}/train/dog/7\.png is not a readable image"
    ):
        load(tmp_path, strict=True)


def test_a_split_without_any_readable_picture_is_refused(tmp_path):
    folder_with_broken(tmp_path, "test/cat/0.png", "test/dog/0.png")
    with pytest.raises(BrokenImageError, match="test/dog/0.png is not a readable"):
        load(tmp_path)


@pytest.mark.parametrize("how", ["large", "originals"])
def test_broken_pictures_that_are_not_kept_are_an_error_when_asked_for(
    tmp_path, monkeypatch, how
):
    folder_with_broken(tmp_path, "train/cat/9.png")
    if how == "large":
        monkeypatch.setattr("recipes.data.images.MEMORY_BYTES", 0)
    data = Data(dataset=str(tmp_path), image_size=(8, 8))
    train = load_dataset(data, originals=how == "originals").train
    assert (len(train), train.broken) == (20, 0)
    assert train.images[8].shape == (8, 8, 3)
    for ask in (train.images.__getitem__, train.images.open):
        with pytest.raises(BrokenImageError, match="cat/9.png is not a readable"):
            ask(9)


def test_the_first_images_leave_broken_ones_out(tmp_path, monkeypatch):
    folder_with_broken(tmp_path, "train/cat/1.png")
    monkeypatch.setattr("recipes.data.images.MEMORY_BYTES", 0)
    train = load(tmp_path).train
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="^Skipped 1 of 4 images"):
        first = train.first(4)
    assert colors(first) == [(0, 100, 0), (2, 100, 0), (3, 100, 0)]
    assert first.broken == 1


def test_images_are_upright_in_8_bits(tmp_path):
    """As any viewer shows them, from a folder and in every way they are fed."""
    upright = np.zeros((8, 8, 3), "uint8")
    upright[:4], upright[4:] = (80, 160, 255), (30, 120, 30)  # sky above grass
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter to the right to be seen
    ramp = np.tile(np.arange(8, dtype="uint16") * 30, (8, 1))
    for name in ("train/a", "train/b", "test/a", "test/b"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
        stored.save(folder / "0.png", exif=exif)
        Image.fromarray(ramp * 257).save(folder / "1.png")
        Image.fromarray(ramp.astype("float32")).save(folder / "2.tif")
    with pytest.warns(UserWarning) as caught:
        dataset = load(tmp_path)
    for split, warning in zip(("train", "test"), caught, strict=True):
        assert str(warning.message).startswith(
            f"Skipped 2 of 6 images: {tmp_path}/{split}/a/2.tif has "
            "floating-point samples (Pillow's mode F), which cannot"
        )
    gray = np.stack([ramp] * 3, axis=-1)
    for split in (dataset.train, dataset.test):
        np.testing.assert_array_equal(split.images, [upright, gray] * 2)
        assert (split.labels.tolist(), split.broken) == ([0, 0, 1, 1], 2)
    originals = load_dataset(
        Data(dataset=str(tmp_path), image_size=(8, 8)), originals=True
    ).train.images
    np.testing.assert_array_equal(originals.open(0), upright)
    np.testing.assert_array_equal(originals.open(1), gray)


def test_images_of_a_mode_that_is_refused_stop_a_run_without_others(tmp_path):
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("I", (8, 8)).save(tmp_path / name / "0.tif")
    with pytest.raises(
        BrokenImageError, match="0.tif has samples of 32 bits or signed"
    ):
        load(tmp_path)


# Original pictures


@pytest.mark.parametrize("source", ["digits", "npz", "folder", "undivided", "tiny"])
def test_training_images_can_stay_original(tmp_path, source):
    name = {"npz": str(tmp_path / "set.npz"), "undivided": str(tmp_path / "train")}
    np.savez(tmp_path / "set.npz", **arrays())
    folder_with_broken(tmp_path)
    data = Data(
        dataset=name.get(source, str(tmp_path) if source == "folder" else source),
        data_dir=FOLDER,
        image_size=(6, 4),
    )
    resized, dataset = load_dataset(data), load_dataset(data, originals=True)
    assert isinstance(resized.train.images, np.ndarray)
    assert isinstance(dataset.test.images, np.ndarray)
    assert isinstance(dataset.train.images, Images)
    assert {image.open(0).size for image in [dataset.train.images]} == {(8, 8)}
    np.testing.assert_array_equal(list(dataset.train.images), resized.train.images)
    np.testing.assert_array_equal(dataset.train.labels, resized.train.labels)
    np.testing.assert_array_equal(dataset.test.images, resized.test.images)
    first = dataset.train.first(3)
    assert isinstance(first.images, Images)
    assert (len(first), len(first.images), first.images.open(2).size) == (3, 3, (8, 8))
    np.testing.assert_array_equal(first.labels, dataset.train.labels[:3])


# ImageNet's own layout


def load_flat(folder, train=True, **options):
    data = Data(dataset=str(folder), test_split="val", image_size=(8, 8), **options)
    return load_dataset(data, train)


SYNSETS = ("n01440764", "n02105855", "n15075141")


def test_a_flat_folder_of_test_images_is_labeled_by_a_file(tmp_path):
    file = imagenet.write_folder(tmp_path)
    (tmp_path / "val" / "readme.txt").write_text("not a picture")
    file.write_text(file.read_text() + "\n\n")
    dataset = load_flat(tmp_path, test_labels=file)
    assert dataset.class_names == SYNSETS
    assert dataset.description == tmp_path.name
    assert imagenet.numbers_of(dataset.train.images) == list(range(24))
    assert dataset.train.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert imagenet.numbers_of(dataset.test.images) == [0, 1, 2, 3, 4]
    assert dataset.test.labels.tolist() == [0, 1, 2, 0, 1]
    assert dataset.test.labels.dtype == "int64"


@pytest.mark.parametrize("with_training_images", [True, False])
def test_a_flat_folder_can_be_evaluated_alone(tmp_path, with_training_images):
    file = imagenet.write_folder(tmp_path)
    file.write_text("\n".join(SYNSETS[i] for i in (2, 1, 1, 2, 1)))
    if not with_training_images:
        shutil.rmtree(tmp_path / "train")
    dataset = load_flat(tmp_path, train=False, test_labels=file)
    assert dataset.train is None
    assert dataset.description == f"{tmp_path.name}, val"
    if with_training_images:
        assert dataset.class_names == SYNSETS
        assert dataset.test.labels.tolist() == [2, 1, 1, 2, 1]
    else:
        assert dataset.class_names == SYNSETS[1:]
        assert dataset.test.labels.tolist() == [1, 0, 0, 1, 0]


@pytest.mark.parametrize("train", [True, False])
def test_a_flat_folder_without_labels_says_what_it_needs(tmp_path, train):
    imagenet.write_folder(tmp_path)
    with pytest.raises(
        MissingDatasetError,
        match=rf"{tmp_path}/val has no class folders.*--test-labels FILE.*one per line",
    ):
        load_flat(tmp_path, train)


def test_a_missing_file_of_labels_is_named(tmp_path):
    imagenet.write_folder(tmp_path)
    with pytest.raises(MissingDatasetError, match="test labels nothing.txt does not"):
        load_flat(tmp_path, test_labels="nothing.txt")


@pytest.mark.parametrize("number", [4, 6])
def test_as_many_labels_as_test_images_are_needed(tmp_path, number):
    file = imagenet.write_folder(tmp_path)
    file.write_text("n01440764\n" * number)
    with pytest.raises(
        ValueError,
        match=rf"labels\.txt has {number} lines, but {tmp_path}/val has 5 images",
    ):
        load_flat(tmp_path, test_labels=file)


def test_labels_of_unknown_classes_are_named(tmp_path):
    file = imagenet.write_folder(tmp_path)
    file.write_text("n01440764\nn2\nn1\nn01440764\nn2\n")
    with pytest.raises(
        ValueError, match=r"labels\.txt has the classes n1, n2, but the"
    ):
        load_flat(tmp_path, test_labels=file)


def test_test_labels_are_refused_where_they_say_nothing(tmp_path):
    file = imagenet.write_folder(tmp_path)
    with pytest.raises(
        ValueError, match="requires a folder of images, which digits is"
    ):
        load("digits", test_labels=file)
    with pytest.raises(ValueError, match=rf"but {tmp_path}/train has class folders"):
        load(tmp_path, test_split="train", test_labels=file)
    with pytest.raises(ValueError, match=rf"{tmp_path}/train/test does not exist; set"):
        load(tmp_path / "train", test_labels=file)


@pytest.mark.parametrize("train", [True, False])
def test_split_folders_are_not_taken_for_classes(tmp_path, train):
    imagenet.write_folder(tmp_path)
    with pytest.raises(
        MissingDatasetError,
        match="not both train/ and test/; its folders are train, val. Set",
    ):
        load_dataset(Data(dataset=str(tmp_path)), train)


def test_splits_of_other_names_are_not_taken_for_classes(tmp_path):
    for split in ("Training", "Val"):
        for name in ("cat", "dog"):
            save_pictures(tmp_path / split / name, 5, 100)
    with pytest.raises(
        MissingDatasetError,
        match=r"Training and Val contain .* \(cat, dog\).* set --train-split",
    ):
        load(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    save_pictures(tmp_path / "train", 5, 0)
    save_pictures(tmp_path / "plane", 5, 0)
    assert load(tmp_path).class_names == ("plane", "train")


@pytest.mark.parametrize("flat", [True, False])
def test_evaluation_alone_numbers_classes_as_training_does(tmp_path, flat):
    file = imagenet.write_folder(tmp_path)
    if not flat:
        shutil.rmtree(tmp_path / "val")
        save_pictures(tmp_path / "val" / "n15075141", 2, 0)
        save_pictures(tmp_path / "val" / "n02105855", 1, 0)
    options = {"test_labels": file} if flat else {}
    with_training = load_flat(tmp_path, **options)
    alone = load_flat(tmp_path, train=False, **options)
    assert with_training.class_names == alone.class_names == SYNSETS
    expected = [0, 1, 2, 0, 1] if flat else [1, 2, 2]
    assert with_training.test.labels.tolist() == expected
    assert alone.test.labels.tolist() == expected


@pytest.mark.parametrize("divided", [True, False])
def test_hidden_files_and_folders_are_left_out(tmp_path, divided):
    parts = [tmp_path / "train", tmp_path / "test"] if divided else [tmp_path]
    for part in parts:
        for folder in ("cat", "dog", ".git", ".ipynb_checkpoints", "cat/.thumbnails"):
            save_pictures(part / folder, 5, 0)
        shutil.copy(part / "cat" / "0.png", part / "cat" / ".0.png")
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert len(dataset.train) + len(dataset.test) == 10 * len(parts)


def test_hidden_files_and_folders_are_left_out_of_a_flat_folder(tmp_path):
    file = imagenet.write_folder(tmp_path)
    save_pictures(tmp_path / "val" / ".thumbnails", 2, 0)
    (tmp_path / "val" / "._ILSVRC2012_val_00000001.JPEG").write_bytes(b"")
    assert len(load_flat(tmp_path, test_labels=file).test) == 5


# TFDS


def load_tiny(data_dir=FOLDER, **options):
    return load("tiny", data_dir=data_dir, **options)


def expected_set(numbers):
    return Counter((picture(n).tobytes(), n % 2) for n in numbers)


@pytest.mark.parametrize("memory", [2 << 30, 0])
def test_a_tfds_data_set_is_read_whole(monkeypatch, memory):
    monkeypatch.setattr("recipes.data.images.MEMORY_BYTES", memory)
    dataset = load_tiny()
    assert isinstance(dataset.train.images, Images if memory == 0 else np.ndarray)
    assert as_set(dataset.train) == expected_set(TRAIN)
    assert as_set(dataset.test) == expected_set(TEST)
    assert dataset.class_names == ("even", "odd")
    assert dataset.description == "tiny (TFDS 1.0.0)"


def test_a_tfds_data_set_may_be_named_with_its_version():
    dataset = load("tiny:1.0.0", data_dir=FOLDER)
    assert as_set(dataset.test) == expected_set(TEST)


def test_images_come_in_the_same_order_from_memory_and_from_files(monkeypatch):
    kept = load_tiny()
    monkeypatch.setattr("recipes.data.images.MEMORY_BYTES", 0)
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
    monkeypatch.setattr("recipes.data.images.MEMORY_BYTES", 0)
    still_in_memory, decoded = batches()
    assert in_memory
    assert not still_in_memory
    for one, other in zip(kept, decoded, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_unknown_data_set_says_what_there_could_be():
    with pytest.raises(
        MissingDatasetError,
        match=r"dataset='nosuch' is not 'digits', an \.npz file, an existing folder"
        ", or the name of a TFDS data set",
    ):
        load("nosuch")


def test_an_unknown_split_names_the_known():
    with pytest.raises(
        ValueError, match="no split 'validation'; .* to some of train, test"
    ):
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
    with pytest.raises(
        ValueError, match=r"has the features image \(Image\), kind \(ClassLabel\);"
    ):
        load_tiny(data_dir)


def test_tfds_of_floating_point_numbers_is_refused(tmp_path):
    data_dir, folder = copy_tiny(tmp_path)
    file = folder / "features.json"
    file.write_text(file.read_text().replace("uint8", "float32").replace('"3"', '"1"'))
    with pytest.raises(ValueError, match="^tiny/1.0.0 stores image as floating-point"):
        load_tiny(data_dir)


@pytest.mark.parametrize("memory", [2 << 30, 0])
@pytest.mark.parametrize("lost", [1, 10, 130, 135])
def test_a_truncated_record_file_is_refused(tmp_path, monkeypatch, memory, lost):
    monkeypatch.setattr("recipes.data.images.MEMORY_BYTES", memory)
    data_dir, folder = copy_tiny(tmp_path)
    file = folder / "tiny-test.tfrecord-00001-of-00002"
    file.write_bytes(file.read_bytes()[:-lost])
    with pytest.raises(ValueError, match=r"is damaged \(.*prepare the data set again"):
        load_tiny(data_dir)


def tiny_with_a_broken_picture(tmp_path):
    """Record 5 of the test images, the second of the second file, is no picture."""
    data_dir, folder = copy_tiny(tmp_path)
    file = folder / "tiny-test.tfrecord-00001-of-00002"
    content = file.read_bytes()
    second = content.index(b"IHDR", content.index(b"IHDR") + 1)
    broken = content[:second] + b"RHDI" + content[second + 4 :]
    file.write_bytes(broken)
    return data_dir


def test_a_broken_picture_of_tfds_is_named(tmp_path, monkeypatch):
    data_dir = tiny_with_a_broken_picture(tmp_path)
    name = ", record 5 of the split 'test' is not a readable image"
    with pytest.warns(UserWarning, match="^Skipped 1 of 7 images: ") as caught:
        test = load_tiny(data_dir).test
    assert (len(test), test.broken) == (6, 1)
    assert f"{tmp_path}/tfds/tiny/1.0.0" in str(caught[0].message)
    assert name in str(caught[0].message)
    with pytest.raises(BrokenImageError, match=name):
        load_tiny(data_dir, strict=True)
    monkeypatch.setattr("recipes.data.images.MEMORY_BYTES", 0)
    test = load_tiny(data_dir).test
    assert len(test) == 7
    with pytest.raises(BrokenImageError, match=rf"test\.tfrecord-00001-of-00002{name}"):
        test.images[5]


# ImageNet by TFDS


@pytest.mark.parametrize("memory", [2 << 30, 0])
def test_imagenet_is_read_by_tfds(monkeypatch, memory):
    monkeypatch.setattr("recipes.data.images.MEMORY_BYTES", memory)
    dataset = load("imagenet2012", data_dir=FOLDER, test_split="validation")
    assert len(dataset.class_names) == 1000
    for synset, label in (*imagenet.CLASSES.items(), ("n04263257", 809)):
        assert dataset.class_names[label] == synset
    assert dataset.description == "imagenet2012 (TFDS 5.1.0)"
    test = dataset.test
    found = dict(zip(imagenet.numbers_of(test.images), test.labels, strict=True))
    assert found == dict(enumerate(imagenet.VALIDATION_LABELS))
    expected = {
        number: imagenet.CLASSES[synset]
        for _, synset, number in imagenet.training_pictures()
    }
    train = dataset.train
    found = dict(zip(imagenet.numbers_of(train.images), train.labels, strict=True))
    assert found == expected


@pytest.mark.parametrize("memory", [2 << 30, 0])
def test_imagenets_training_pictures_stay_of_their_sizes(monkeypatch, memory):
    monkeypatch.setattr("recipes.data.images.MEMORY_BYTES", memory)
    data = Data(dataset="imagenet2012", data_dir=FOLDER, test_split="validation")
    images = load_dataset(data, originals=True).train.images
    opened = [images.open(i) for i in range(24)]
    numbers = imagenet.numbers_of(opened)
    assert sorted(numbers) == list(range(24))
    assert [i.size for i in opened] == [imagenet.size(n) for n in numbers]


def test_absent_imagenet_says_what_to_download_and_where_to_put_it(tmp_path):
    with pytest.raises(MissingDatasetError) as error:
        load("imagenet2012", data_dir=tmp_path, test_split="validation")
    message = str(error.value)
    assert message.startswith(f"imagenet2012 is not in {tmp_path}/imagenet2012/5.1.0")
    assert "tfds.load('imagenet2012', data_dir='DIR')" in message
    assert (
        "put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from "
        "https://image-net.org/download-images into DIR/downloads/manual" in message
    )
    assert "--dataset FOLDER with train/n01440764/*.JPEG" in message


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
    assert "use --data-dir DIR" in message


def test_the_first_images_of_a_split_are_at_most_all():
    test = load_tiny().test
    np.testing.assert_array_equal(test.first(3).images, test.images[:3])
    np.testing.assert_array_equal(test.first(3).labels, test.labels[:3])
    assert len(test.first(100)) == 7
