import io
import os
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from recipes.data import storage
from recipes.data.batches import Batches
from recipes.data.feed import Feed
from recipes.data.fingerprints import dataset_fingerprint
from recipes.data.records import Records
from recipes.data.sources import load_dataset
from recipes.options.classification import Data
from tests import make_tiny_tfds

pytestmark = pytest.mark.any_backend

CHECKSUM = b"\xff\xff\xff\xff"  # is not looked at


def builder(folder, *files, number):
    split = SimpleNamespace(
        filepaths=[Path(folder) / file for file in files], num_examples=number
    )
    return SimpleNamespace(
        info=SimpleNamespace(splits={"train": split}), data_path=folder
    )


def row(record):
    return struct.pack("<Q", len(record)) + CHECKSUM + record + CHECKSUM


def field(content):
    """A field of a protobuf message: tag, length, content."""
    length, left = b"", len(content)
    while left > 127:
        length += bytes([left % 128 + 128])
        left //= 128
    return b"\n" + length + bytes([left]) + content


def feature(name, **values):
    example = tf_example_pb2.Example()
    for kind, value in values.items():
        getattr(example.features.feature[name], kind).value.append(value)
    return example.features.SerializeToString()


def record(image, label, order="ilf"):
    """A `tf.train.Example` whose features come in an order: image, label, file."""
    features = {
        "i": feature("image", bytes_list=image),
        "l": feature("label", int64_list=label),
        "f": feature("file_name", bytes_list=b"n15075141_54.JPEG"),
    }
    return field(b"".join(features[letter] for letter in order))


# Among these bytes are some like those that are looked for.
LONG = bytes(range(256)) * 20 + feature("label", int64_list=5) * 20


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.tfrecord-0-of-2").write_bytes(
        row(record(b"one", 3)) + row(record(b"", 0, "fil")) + row(record(LONG, 999))
    )
    (tmp_path / "a.tfrecord-1-of-2").write_bytes(row(record(b"three", 1)))
    return tmp_path


FILES = ("a.tfrecord-0-of-2", "a.tfrecord-1-of-2")


def test_records_are_found_by_index_over_all_files(folder):
    records = Records(builder(folder, *FILES, number=4), "train")
    assert len(records) == 4
    assert records[3] == b"three"
    assert records[0] == b"one"
    assert records[1] == b""
    assert records[2] == LONG
    assert records.labels.tolist() == [3, 0, 999, 1]
    assert records.labels.dtype == "int64"
    assert records.name(3) == f"{folder}/{FILES[1]}, record 3 of the split 'train'"


@pytest.mark.parametrize("order", ["ilf", "lif", "fil", "li", "il"])
@pytest.mark.parametrize("size", [0, 1, 100, 120, 127, 128, 200, 16_383, 3_000_000])
@pytest.mark.parametrize("label", [0, 7, 999, 2**40, -1])
def test_the_label_is_found_before_and_after_pictures_of_any_size(
    tmp_path, order, size, label
):
    content = row(record(b"\n" * size, label, order))
    (tmp_path / "a.tfrecord").write_bytes(content)
    records = Records(builder(tmp_path, "a.tfrecord", number=1), "train")
    assert records.labels.tolist() == [label]
    assert records[0] == b"\n" * size


@pytest.mark.parametrize("order", ["ilf", "lif", "fil"])
def test_the_pictures_are_not_read_for_the_labels(tmp_path, monkeypatch, order):
    rows = [row(record(bytes(100_000), i, order)) for i in range(20)]
    (tmp_path / "a.tfrecord").write_bytes(b"".join(rows))
    read = []

    class Counting(io.FileIO):
        def readinto(self, buffer):
            read.append(super().readinto(buffer))
            return read[-1]

    def counting_open(path, mode, buffering):
        return io.BufferedReader(Counting(path), buffering)

    monkeypatch.setattr(storage, "open", counting_open, raising=False)
    records = Records(builder(tmp_path, "a.tfrecord", number=20), "train")
    assert records.labels.tolist() == list(range(20))
    assert 0 < sum(read) < 20 * 2048


@pytest.mark.parametrize("lost", [1, 4, 5, 9, 14, 17, 20])
def test_a_file_that_ends_within_a_record_is_refused(folder, lost):
    file = folder / FILES[1]
    file.write_bytes(file.read_bytes()[:-lost])
    with pytest.raises(ValueError, match=rf"{FILES[1]} is damaged \(it is truncated\)"):
        Records(builder(folder, *FILES, number=4), "train")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\n\xff\xff",
        b"\n" + b"\xff" * 30 + b"\x01",
        field(b"\n\x05abcde"),
        field(feature("image", bytes_list=b"one")),
        field(feature("label", bytes_list=b"cat")),
        bytes(300),
        b"\xff" * 300,
    ],
)
def test_records_without_a_label_are_damage(folder, content):
    (folder / FILES[1]).write_bytes(row(record(b"", 1)) + row(content))
    with pytest.raises(
        ValueError, match=rf"{FILES[1]} is damaged \(record 1 of the file has no label"
    ):
        Records(builder(folder, *FILES, number=5), "train")


def test_missing_records_are_noticed(folder):
    with pytest.raises(ValueError, match=r"is damaged \(4 records, not 5\); prepare"):
        Records(builder(folder, *FILES, number=5), "train")


def test_another_format_is_refused(folder):
    with pytest.raises(ValueError, match=r"riegeli is not a TFRecord or ArrayRecord"):
        Records(builder(folder, "a.riegeli", number=0), "train")


# ArrayRecord


ARRAY_FILES = ("a.array_record-0-of-2", "a.array_record-1-of-2")


@pytest.fixture
def arrays(tmp_path):
    """The records of `folder`."""
    write_array_record(
        tmp_path / ARRAY_FILES[0],
        record(b"one", 3),
        record(b"", 0, "fil"),
        record(LONG, 999),
    )
    write_array_record(tmp_path / ARRAY_FILES[1], record(b"three", 1))
    return tmp_path


def write_array_record(path, *records):
    writer = ArrayRecordWriter(str(path), "group_size:1")  # as TFDS does
    for each in records:
        writer.write(each)
    writer.close()


def test_records_of_array_record_are_those_of_tfrecord(folder, arrays):
    one = Records(builder(folder, *FILES, number=4), "train")
    other = Records(builder(arrays, *ARRAY_FILES, number=4), "train")
    assert list(other) == list(one) == [b"one", b"", LONG, b"three"]
    assert other.labels.tolist() == one.labels.tolist() == [3, 0, 999, 1]
    for records in (one, other):
        assert records.of("file_name")[1] == b"n15075141_54.JPEG"
        assert records.values("file_name") == [(b"n15075141_54.JPEG",)] * 4
    assert other.name(3) == f"{arrays}/{ARRAY_FILES[1]}, record 3 of the split 'train'"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of the tiny data set, prepared by TFDS as ArrayRecord files."""
    folder = tmp_path_factory.mktemp("tfds")
    make_tiny_tfds.prepare(folder, "array_record")
    assert list(folder.glob("tiny/1.0.0/tiny-train.array_record-0000?-of-00002"))
    return folder


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_data_set_is_the_same_whatever_the_format_of_its_files(
    tiny, monkeypatch, split
):
    monkeypatch.setattr("recipes.data.images.MEMORY_BYTES", 0)
    one, other = (
        load_dataset(Data(dataset="tiny", data_dir=folder, image_size=(8, 8)))
        for folder in (make_tiny_tfds.FOLDER, tiny)
    )
    assert dataset_fingerprint(other) == dataset_fingerprint(one)
    one, other = getattr(one, split), getattr(other, split)
    assert len(other) == len(one)
    np.testing.assert_array_equal(np.stack(list(other.images)), list(one.images))
    np.testing.assert_array_equal(other.labels, one.labels)


def test_array_record_files_without_their_package_are_one_sentence(arrays, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = "array_record, which is not installed .* file_format='tfrecord'"
    with pytest.raises(ValueError, match=message):
        Records(builder(arrays, *ARRAY_FILES, number=4), "train")


@pytest.mark.parametrize("content", [b"", b"hello" * 20_000])
def test_what_is_no_array_record_is_damage(arrays, content):
    (arrays / ARRAY_FILES[1]).write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"{ARRAY_FILES[1]} is damaged \(.*\); prepare the data set"
    ):
        Records(builder(arrays, *ARRAY_FILES, number=4), "train")


@pytest.mark.parametrize("lost", [1, 100, 70_000])
def test_an_array_record_file_that_ends_early_is_damage(arrays, lost):
    file = arrays / ARRAY_FILES[1]
    file.write_bytes(file.read_bytes()[:-lost])
    with pytest.raises(ValueError, match=rf"{ARRAY_FILES[1]} is damaged \("):
        Records(builder(arrays, *ARRAY_FILES, number=4), "train")


def test_a_flipped_bit_in_an_array_record_file_is_damage(arrays):
    file = arrays / ARRAY_FILES[1]
    content = file.read_bytes()
    file.write_bytes(content.replace(b"three", b"thsee"))
    assert file.read_bytes() != content  # what is so short is not compressed
    with pytest.raises(ValueError, match=r"damaged \(.*hash mismatch.*\); prepare"):
        Records(builder(arrays, *ARRAY_FILES, number=4), "train")


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_worker_processes_read_records(tiny, monkeypatch, file_format, capfd):
    monkeypatch.setattr("recipes.data.images.MEMORY_BYTES", 0)
    folder = tiny if file_format == "array_record" else make_tiny_tfds.FOLDER
    split = load_dataset(Data(dataset="tiny", data_dir=folder, image_size=(8, 8))).train
    assert len(pickle.dumps(split.images)) < 3000
    capfd.readouterr()
    steps = Batches(split, 2, batch_size=16)
    for batch, read in zip(
        (steps[step] for step in range(3)), Feed(steps, 2).read(0, 3), strict=True
    ):
        for expected, array in zip(batch, read, strict=True):
            np.testing.assert_array_equal(array, expected)
    assert capfd.readouterr().err == ""


# The index beside the files


def spoil(file):
    """Leaves nothing of a file's content, but its size and its time."""
    facts = file.stat()
    file.write_bytes(bytes(facts.st_size))
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))


@pytest.mark.parametrize("files", [FILES, ARRAY_FILES])
def test_the_index_is_read_from_beside_the_files(folder, arrays, files):
    found = builder(folder, *files, number=4)
    before = Records(found, "train")
    for file in files:
        spoil(folder / file)
    after = Records(found, "train")
    assert after.labels.tolist() == before.labels.tolist() == [3, 0, 999, 1]
    assert after.name(3) == before.name(3)
    with pytest.raises(ValueError, match="is damaged"):  # of another label
        Records(found, "train", "file_name")
    os.utime(folder / files[0])
    with pytest.raises(ValueError, match=rf"{files[0]} is damaged"):
        Records(found, "train")


def test_the_index_is_made_again_of_other_files(folder):
    assert len(Records(builder(folder, *FILES, number=4), "train")) == 4
    with open(folder / FILES[0], "ab") as file:
        file.write(row(record(b"new", 5)))
    records = Records(builder(folder, *FILES, number=5), "train")
    assert list(records) == [b"one", b"", LONG, b"new", b"three"]
    assert records.labels.tolist() == [3, 0, 999, 5, 1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"not an archive",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b"\xe7\x03", b"\xe7\x04"),  # 999
        lambda content: pickle.dumps(content),
    ],
)
def test_a_damaged_index_is_made_again(folder, damage):
    found = builder(folder, *FILES, number=4)
    Records(found, "train")
    cache = folder / "keras_cbvit-train-label.npz"
    content = cache.read_bytes()
    cache.write_bytes(damage(content))
    assert cache.read_bytes() != content
    assert Records(found, "train").labels.tolist() == [3, 0, 999, 1]
    assert cache.read_bytes() == content


@pytest.mark.parametrize("place", ["nosuch", FILES[0]])
def test_where_no_file_can_be_written_there_is_no_index(folder, place):
    found = builder(folder, *FILES, number=4)
    found.data_path = folder / place
    before = sorted(folder.iterdir())
    for _ in range(2):
        assert Records(found, "train").labels.tolist() == [3, 0, 999, 1]
    assert sorted(folder.iterdir()) == before


def test_the_index_may_be_written_by_several_at_once(folder):
    found = builder(folder, *FILES, number=4)
    cache = folder / "keras_cbvit-train-label.npz"
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            cache.unlink(missing_ok=True)
            for records in pool.map(Records, [found] * 8, ["train"] * 8):
                assert records.labels.tolist() == [3, 0, 999, 1]
    for file in FILES:
        spoil(folder / file)
    assert Records(found, "train").labels.tolist() == [3, 0, 999, 1]
