import dataclasses
import io
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from keras_cbvit.images import BrokenImageError
from recipes.data.folders import MissingDatasetError
from recipes.data.segmentation import pairs as sources
from recipes.data.segmentation.pairs import IGNORED, class_of_label, load_pairs
from recipes.options.segmentation import Data
from tests.recipes.data.image_files import png

pytestmark = pytest.mark.any_backend

LABELS = np.array([[0, 1, 2], [2, 11, 0]], "uint8")


def write(folder, name, labels=LABELS, size=None, places=("images", "labels")):
    """A gray picture and its labels."""
    labels = np.asarray(labels, "uint8")
    for place in places:
        (folder / place).mkdir(parents=True, exist_ok=True)
    size = size or labels.shape[1::-1]
    Image.new("RGB", size, (10, 20, 30)).save(folder / places[0] / f"{name}.jpg")
    Image.fromarray(labels).save(folder / places[1] / f"{name}.png")


def data_of(folder, classes=3, **changes):
    names = tuple(f"class {i}" for i in range(classes))
    data = Data(str(folder), class_names=names, ignored_label=11)
    return dataclasses.replace(data, **changes)


@pytest.fixture
def folder(tmp_path):
    for split, names in (("train", "cab"), ("val", "d")):
        for name in names:
            write(tmp_path / split, name)
    return tmp_path


def test_a_folder_gives_pictures_with_the_class_of_each_pixel(folder):
    dataset = load_pairs(data_of(folder))
    assert (len(dataset.train), len(dataset.test)) == (3, 1)
    assert dataset.class_names == ("class 0", "class 1", "class 2")
    assert dataset.description == folder.name
    image, labels = dataset.train[0]
    assert (image.mode, image.size) == ("RGB", (3, 2))
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[0, 1, 2], [2, IGNORED, 0]]


def test_pictures_come_in_the_order_of_their_names(folder):
    pairs = load_pairs(data_of(folder)).train
    names = [pairs.image_name(i)[-5:] for i in range(3)]
    assert names == ["a.jpg", "b.jpg", "c.jpg"]
    assert len(pairs.first(2)) == 2
    with pytest.raises(IndexError):
        pairs.first(2)[2]
    assert list(pairs.spread(2).indices) == [0, 2]
    assert list(pairs.first(2).spread(9).indices) == [0, 1]


def test_ade20ks_own_folders_are_known_and_label_0_is_ignored(tmp_path):
    for split in ("training", "validation"):
        places = f"images/{split}", f"annotations/{split}"
        write(tmp_path, f"ADE_{split}", [[0, 1], [2, 150]], places=places)
    splits = {"train_split": "training", "test_split": "validation"}
    data = data_of(tmp_path, 150, ignored_label=0, **splits)
    assert load_pairs(data).test[0][1].tolist() == [[IGNORED, 0], [1, 149]]


@pytest.mark.parametrize(
    ("classes", "ignored", "table"),
    [
        (11, 11, {0: 0, 10: 10, 11: 255}),
        (150, 0, {0: 255, 1: 0, 150: 149}),
        (3, 255, {0: 0, 2: 2, 255: 255}),
        (3, 1, {0: 0, 1: 255, 2: 1, 3: 2}),
    ],
)
def test_classes_are_counted_without_the_ignored_label(classes, ignored, table):
    found = class_of_label(classes, ignored)
    known = {label: int(found[label]) for label in np.flatnonzero(found != 254)}
    assert len(known) == classes + 1
    assert known.items() >= table.items()


# Rows of red, green, blue and so on, and the class of each pixel.
COLORS = np.array([[(250, 0, 0)] * 8, [(0, 250, 0)] * 8, [(0, 0, 250)] * 8], "uint8")
CLASSES = np.repeat([[0], [1], [2]], 8, axis=1)


def save_turned(path, array, orientation):
    """Saves an array as a camera does that was turned: as stored, with a tag."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(array)).save(path, exif=exif)


@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, lambda upright: upright),
        (3, lambda upright: upright[::-1, ::-1]),
        (4, lambda upright: upright[::-1]),
        (6, lambda upright: np.rot90(upright)),
        (8, lambda upright: np.rot90(upright, -1)),
    ],
)
def test_labels_are_of_the_image_as_it_is_shown(folder, orientation, stored, tagged):
    (folder / "train/images/a.jpg").unlink()
    save_turned(folder / "train/images/a.png", stored(COLORS), orientation)
    labels = folder / "train/labels/a.png"
    if tagged:
        save_turned(labels, stored(CLASSES).astype("uint8"), orientation)
    else:
        Image.fromarray(CLASSES.astype("uint8")).save(labels)
    image, classes = load_pairs(data_of(folder)).train[0]
    np.testing.assert_array_equal(image, COLORS)
    np.testing.assert_array_equal(classes, CLASSES)


def test_labels_of_the_image_as_it_is_stored_are_refused(folder):
    (folder / "train/images/a.jpg").unlink()
    save_turned(folder / "train/images/a.png", np.rot90(COLORS), 6)
    stored = Image.fromarray(np.rot90(CLASSES).astype("uint8"))
    stored.save(folder / "train/labels/a.png")
    message = (
        r"a\.png has 8x3 pixels, but its labels .*a\.png have 3x8; .* EXIF orientation"
    )
    with pytest.raises(ValueError, match=message):
        load_pairs(data_of(folder)).train[0]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("transparency", [b"", struct.pack(">H", 1)])
def test_gray_labels_of_any_depth_are_read_as_they_are(folder, bits, transparency):
    labels = np.array([[0, 1, 0], [1, 1, min(2, 2**bits - 1)]])
    file = png(labels[..., None], bits, transparency=transparency)
    (folder / "train/labels/a.png").write_bytes(file)
    found = load_pairs(data_of(folder)).train[0][1]
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_indices_of_a_palette_of_any_depth_are_the_labels(folder, bits):
    labels = np.array([[0, 1, 0], [1, 1, min(2, 2**bits - 1)]])
    palette = np.full((2**bits, 3), 200)
    file = png(labels[..., None], bits, palette, transparency=b"\0\x80")
    (folder / "train/labels/a.png").write_bytes(file)
    found = load_pairs(data_of(folder)).train[0][1]
    np.testing.assert_array_equal(found, labels)


def test_labels_beyond_255_are_refused(folder):
    file = png(np.full((2, 3, 1), 256), 16)
    (folder / "train/labels/a.png").write_bytes(file)
    with pytest.raises(
        ValueError, match=r"a\.png has the label 256; labels must range from 0 to"
    ):
        load_pairs(data_of(folder)).train[0]


def test_a_jpeg_file_called_png_is_refused(folder):
    Image.fromarray(LABELS).save(folder / "train/labels/a.png", "JPEG")
    message = r"labels/a\.png is a JPEG file; save it as PNG"
    with pytest.raises(ValueError, match=message):
        load_pairs(data_of(folder)).train[0]


def test_what_a_folder_holds_beside_the_pairs_is_named(folder):
    (folder / "train/images/notes.txt").touch()
    (folder / "train/labels/a.json").touch()
    (folder / "train/depth").mkdir()
    (folder / "classes.txt").touch()
    (folder / "other").mkdir()
    with pytest.warns(UserWarning) as caught:
        load_pairs(data_of(folder))
    assert [str(warning.message) for warning in caught] == [
        f"Not used in {folder}: 2 .txt, 1 .json, 1 folder depth, 1 folder other."
    ]
    # Of one split alone the others are not asked for.
    with pytest.warns(UserWarning) as caught:
        load_pairs(data_of(folder, test_split="train"))
    assert [str(warning.message) for warning in caught] == [
        f"Not used in {folder}/train/images and {folder}/train/labels: 1 .json, 1 .txt."
    ]


def test_linked_folders_of_pairs_are_followed(folder, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk")
    write(disk, "e", [[1, 1, 1]])
    for place in ("images", "labels"):
        (folder / "train" / place / "more").symlink_to(disk / place)
    pairs = load_pairs(data_of(folder)).train
    assert len(pairs) == 4
    assert pairs[3][1].tolist() == [[1, 1, 1]]


def test_a_palette_is_read_as_indices(folder):
    labels = Image.fromarray(LABELS).convert("P")
    labels.putdata(LABELS.ravel().tolist())
    labels.putpalette([200, 100, 0] * 256)
    labels.save(folder / "train/labels/a.png")
    assert load_pairs(data_of(folder)).train[0][1].tolist()[0] == [0, 1, 2]


def test_a_picture_and_labels_of_different_sizes_are_refused(folder):
    write(folder / "train", "a", size=(3, 4))
    with pytest.raises(
        ValueError,
        match=r"a\.jpg has 3x4 pixels, but its labels .*a\.png have 3x2; the sizes",
    ):
        load_pairs(data_of(folder)).train[0]


def test_a_label_that_is_no_class_is_refused(folder):
    write(folder / "train", "b", [[0, 3], [7, 11]])
    with pytest.raises(
        ValueError,
        match=r"b\.png has the unknown labels 3, 7; the 3 classes have the labels "
        r"0 to 2, and 11 is ignored\. .*--class-names and --ignored-label",
    ):
        load_pairs(data_of(folder)).train[1]


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (
            "train/labels/b.png",
            r"images/b\.jpg has no counterpart b\.\* in .*train/labels",
        ),
        ("val/images/d.jpg", r"images contains no images"),
        (
            "train/images/c.jpg",
            r"labels/c\.png has no counterpart c\.\* in .*train/images",
        ),
    ],
)
def test_a_missing_partner_is_named(folder, lost, message):
    (folder / lost).unlink()
    with pytest.raises((ValueError, MissingDatasetError), match=message):
        load_pairs(data_of(folder))


def test_labels_that_are_not_png_are_named(folder):
    labels = folder / "train/labels"
    (labels / "a.png").rename(labels / "a.PNG")
    assert load_pairs(data_of(folder)).train[0][1].tolist()[0] == [0, 1, 2]
    for name in ("b.jpg", "b.tif"):  # with b.png, and in its place
        Image.fromarray(LABELS).save(labels / name)
        with pytest.raises(ValueError, match=rf"{name} is not a PNG file; labels must"):
            load_pairs(data_of(folder))
        (labels / name).unlink()
    for file in labels.iterdir():
        file.rename(file.with_suffix(".npy"))
    message = (
        r"labels contains no images.* It contains 3 \.npy\. Labels must be PNG files\.$"
    )
    with pytest.raises(MissingDatasetError, match=message):
        load_pairs(data_of(folder))


def test_a_picture_of_another_ending_is_no_partner(folder):
    images = folder / "train/images"
    (images / "b.jpg").rename(images / "b.heic")
    message = r"no counterpart b\.\* in .*images; labels must be \.png files"
    with pytest.raises(ValueError, match=message):
        load_pairs(data_of(folder))


def test_two_pictures_of_one_stem_are_refused(folder):
    Image.new("RGB", (3, 2)).save(folder / "train/images/a.png")
    with pytest.raises(
        ValueError, match=r"a\.jpg and .*a\.png differ only in the extension"
    ):
        load_pairs(data_of(folder))


def test_broken_files_are_named(folder):
    (folder / "train/labels/a.png").write_bytes(b"no picture")
    pairs = load_pairs(data_of(folder)).train
    with pytest.raises(BrokenImageError, match=r"labels/a\.png is not a readable im"):
        pairs[0]


def test_labels_in_colors_are_refused(folder):
    colors = np.zeros((2, 3, 3), "uint8")
    colors[..., 1] = LABELS
    Image.fromarray(colors).save(folder / "train/labels/a.png")
    message = r"a\.png has 3 channels that differ; labels must have .* of each pixel\.$"
    with pytest.raises(ValueError, match=message):
        load_pairs(data_of(folder)).train[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "./nowhere"}, "The folder nowhere does not exist"),
        (
            {"train_split": "training"},
            "neither training/images and training/labels nor",
        ),
        ({"class_names": ()}, "class_names has 0 names, .* Set --class-names"),
        ({"class_names": ("a",) * 254}, "class_names has 254 names"),
        ({"ignored_label": 256}, "ignored_label=256 must be between 0 and 255"),
        ({"class_names": ("a", "b", "a ")}, "--class-names has 'a' twice"),
        ({"class_names": ("a", "", "b")}, r"--class-names\[1\] is empty"),
    ],
)
def test_data_that_are_not_there_or_make_no_sense_are_refused(folder, changes, message):
    with pytest.raises((ValueError, MissingDatasetError), match=message):
        load_pairs(data_of(folder, **changes))


def test_class_names_have_one_form(folder):
    names = ("cafe\u0301", " tea", "the\u0301")
    dataset = load_pairs(data_of(folder, class_names=names))
    assert dataset.class_names == ("caf\u00e9", "tea", "th\u00e9")


def test_classes_get_other_numbers(folder):
    pairs = load_pairs(data_of(folder)).train
    other = pairs.renumber(np.array([4, 0, 2]), 5)
    assert other.classes == 5
    assert other.first(1)[0][1].tolist() == [[4, 0, 2], [2, IGNORED, 4]]
    assert pairs[0][1].tolist() == [[0, 1, 2], [2, IGNORED, 0]]
    write(folder / "train", "a", [[0, 3], [7, 11]])
    with pytest.raises(
        ValueError, match="labels 3, 7; the 3 classes have the labels 0 to 2, and 1"
    ):
        other[0]
    with pytest.raises(ValueError, match="class_names has 254 names"):
        pairs.renumber(np.array([0, 1, 2]), 254)


@pytest.mark.parametrize("dataset", ["nosuch", "no/such", "nosuch.npz"])
def test_a_name_of_nothing_says_where_a_folder_was_looked_for(dataset, tmp_path):
    message = (
        f"The folder {tmp_path / dataset} does not exist, and TFDS has .* "
        f"'{dataset}'\\."
    )
    with pytest.raises(MissingDatasetError, match=message) as caught:
        load_pairs(data_of(dataset, data_dir=tmp_path))
    assert "--data-dir" in str(caught.value) and "digits" not in str(caught.value)


def record(image, labels):
    """A picture and its labels as TFDS writes them in a row of a TFRecord file."""
    example = tf_example_pb2.Example()
    for name, picture, kind in (
        ("image", image, "JPEG"),
        ("annotation", labels, "PNG"),
    ):
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, kind)
        example.features.feature[name].bytes_list.value.append(stream.getvalue())
    content = example.SerializeToString()
    return struct.pack("<Q", len(content)) + bytes(4) + content + bytes(4)


@pytest.fixture
def tfds_builder(tmp_path, monkeypatch):
    """What TFDS tells of a data set whose annotation has one channel or three."""
    three = np.repeat(LABELS[..., None], 3, axis=2)
    instances = three * np.array([1, 5, 0], "uint8")
    rows = [record(np.zeros((2, 3, 3), "uint8"), x) for x in (LABELS, three, instances)]
    splits = {}
    for split in ("train", "test"):
        path = tmp_path / f"{split}.tfrecord"
        path.write_bytes(b"".join(rows))
        splits[split] = SimpleNamespace(filepaths=[path], num_examples=len(rows))
    info = SimpleNamespace(
        splits=splits, version="1.0.0", features={"image": None, "annotation": None}
    )
    builder = SimpleNamespace(info=info, data_path=tmp_path)
    monkeypatch.setattr(sources, "prepare", lambda data, *splits: builder)
    return builder


def test_tfds_is_read_by_index_without_tensorflow(tfds_builder):
    dataset = load_pairs(data_of("scene_parse150", test_split="test"))
    assert dataset.description == "scene_parse150 (TFDS 1.0.0)"
    for index in (1, 0):
        image, labels = dataset.test[index]
        assert image.size == (3, 2)
        assert labels.tolist() == [[0, 1, 2], [2, IGNORED, 0]]
    with pytest.raises(
        ValueError,
        match=r"The annotation of .*test\.tfrecord, record 2 .* has 3 channels that"
        " .*TFDS's scene_parse150 may",
    ):
        dataset.test[2]


def test_tfds_without_annotation_is_refused(tfds_builder):
    del tfds_builder.info.features["annotation"]
    with pytest.raises(
        ValueError, match="cifar10 has no annotation; its features are image, but segm"
    ):
        load_pairs(data_of("cifar10"))


def test_tfds_of_floating_point_numbers_is_refused(tfds_builder):
    tfds_builder.info.full_name = "depths/1.0.0"
    depth = tfds.features.Image(shape=(None, None, 1), dtype=np.float32)
    tfds_builder.info.features["annotation"] = depth
    with pytest.raises(
        ValueError, match="^depths/1.0.0 stores annotation as floating-point"
    ):
        load_pairs(data_of("depths"))
