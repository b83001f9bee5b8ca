import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

from recipes.data.tfrecords import Records

CHECKSUM = b"\xff\xff\xff\xff"  # is not looked at


class Features:
    """Records that are images themselves, labelled by their length."""

    def deserialize_example_np(self, record, decoders):
        assert decoders == "decoders"
        return {"image": record, "label": len(record)}


def builder(folder, *files, number):
    split = SimpleNamespace(
        filepaths=[Path(folder) / file for file in files], num_examples=number
    )
    info = SimpleNamespace(features=Features(), splits={"train": split})
    return SimpleNamespace(info=info, data_path=folder)


def row(record):
    return struct.pack("<Q", len(record)) + CHECKSUM + record + CHECKSUM


@pytest.fixture
def folder(tmp_path):
    long = bytes(range(256)) * 2
    (tmp_path / "a.tfrecord-0-of-2").write_bytes(row(b"one") + row(b"") + row(long))
    (tmp_path / "a.tfrecord-1-of-2").write_bytes(row(b"three"))
    return tmp_path


FILES = ("a.tfrecord-0-of-2", "a.tfrecord-1-of-2")


def test_records_are_found_by_index_over_all_files(folder):
    records = Records(builder(folder, *FILES, number=4), "train", "decoders")
    assert len(records) == 4
    assert records[3] == b"three"
    assert records[0] == b"one"
    assert records[2] == bytes(range(256)) * 2
    assert records.labels().tolist() == [3, 0, 512, 5]
    assert records.labels().dtype == "int64"


@pytest.mark.parametrize("lost", [1, 4, 5, 9, 14, 17, 20])
def test_a_file_that_ends_within_a_record_is_refused(folder, lost):
    file = folder / FILES[1]
    file.write_bytes(file.read_bytes()[:-lost])
    with pytest.raises(ValueError, match=rf"{FILES[1]} is damaged \(it is truncated\)"):
        Records(builder(folder, *FILES, number=4), "train", "decoders")


def test_missing_records_are_noticed(folder):
    with pytest.raises(ValueError, match=r"is damaged \(4 records, not 5\); prepare"):
        Records(builder(folder, *FILES, number=5), "train", "decoders")


def test_another_format_needs_tensorflow(folder):
    (folder / "a.array_record").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.array_record is not a TFRecord file; in"):
        Records(builder(folder, "a.array_record", number=0), "train", "decoders")
