import io
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorflow_datasets.proto import tf_example_pb2

from recipes.data import tfrecords
from recipes.data.tfrecords import Records

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

    monkeypatch.setattr(tfrecords, "open", counting_open, raising=False)
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
    (folder / "a.array_record").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.array_record is not a TFRecord file\."):
        Records(builder(folder, "a.array_record", number=0), "train")
