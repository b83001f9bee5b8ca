"""TFRecord files without TensorFlow."""

import copy
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

# Features of a record that are larger than this are skipped in search of another one.
_SMALL_BYTES = 128


class Records(Sequence):
    """One feature of a TFDS split in TFRecord files, by index: the encoded images.

    A TFRecord file is a row of: length of the record (8 bytes), checksum of the
    length (4), record, checksum of the record (4).

    Args:
        builder: a TFDS builder whose files are there.
        split: the split's name.
        label: the name of the feature that is the label; `None` if there is none of
            one number.
        feature: the name of the feature that indexing gives, of bytes.

    Attributes:
        labels: the label of each record, int64; 0 if there is none.
    """

    def __init__(self, builder, split, label: str | None = "label", feature="image"):
        self.split = split
        self.feature = feature
        self.paths = builder.info.splits[split].filepaths
        for path in self.paths:
            if ".tfrecord" not in path.name:
                raise ValueError(
                    f"{path} is not a TFRecord file. TensorFlow, if installed, reads "
                    "other formats of small data sets; prepare large ones with "
                    "file_format='tfrecord'."
                )
        with ThreadPoolExecutor() as pool:  # disks answer many at once
            found = list(pool.map(_read_index, self.paths, itertools.repeat(label)))
        self.files = np.repeat(np.arange(len(found)), [len(rows) for rows in found])
        # Arrays: a million records as tuples would take hundreds of megabytes.
        self.starts, self.lengths, self.labels = np.concatenate(found).T.copy()
        expected = builder.info.splits[split].num_examples
        if len(self) != expected:
            raise damaged(builder.data_path, f"{len(self)} records, not {expected}")

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        from tensorflow_datasets.proto import tf_example_pb2

        # Opened each time: that takes microseconds, is safe in threads, and ImageNet
        # has more files than a process may keep open.
        with open(self.paths[self.files[index]], "rb") as file:
            file.seek(self.starts[index])
            record = file.read(self.lengths[index])
        # Ten times faster than `deserialize_example_np` of TFDS.
        example = tf_example_pb2.Example.FromString(record)
        return example.features.feature[self.feature].bytes_list.value[0]

    def of(self, feature):
        """The same records by another feature of bytes; nothing is read again."""
        records = copy.copy(self)
        records.feature = feature
        return records

    def values(self, feature):
        """The values of another small feature: for each record a tuple."""

        def of_file(number):
            rows = self.files == number
            places = zip(self.starts[rows], self.lengths[rows], strict=True)
            found = []
            with open(self.paths[number], "rb", buffering=512) as file:
                for start, length in places:
                    file.seek(start)
                    found.append(_read_values(file, start + length, feature))
            return found

        with ThreadPoolExecutor() as pool:
            found = pool.map(of_file, range(len(self.paths)))
            return list(itertools.chain.from_iterable(found))

    def name(self, index):
        """Where a record is, for messages."""
        path = self.paths[self.files[index]]
        return f"{path}, record {index} of the split {self.split!r}"


def _read_index(path, label):
    """Start, length and label of each record in a TFRecord file.

    The pictures' bytes, nearly all of the file, are not read.
    """
    from google.protobuf.message import DecodeError

    rows = []
    # The small buffer holds what is wanted of a record, and little of its picture.
    with open(path, "rb", buffering=512) as file:
        size = file.seek(0, 2)
        start = 0
        while start < size:
            file.seek(start)
            header = file.read(12)
            length = int.from_bytes(header[:8], "little")
            first, start = start + 12, start + 12 + length + 4
            if len(header) < 12 or start > size:
                raise damaged(path, "it is truncated")
            try:
                value = label and int(_read_values(file, first + length, label)[0])
            except (DecodeError, IndexError, ValueError) as error:
                reason = f"record {len(rows)} of the file has no {label}"
                raise damaged(path, reason) from error
            rows.append((first, length, value or 0))
    return np.array(rows, "int64").reshape(-1, 3)


def _read_values(file, end, name) -> tuple:
    """The values of a feature in the `tf.train.Example` from here to `end`.

    That is one field with the features, which is one field for each feature.
    """
    from tensorflow_datasets.proto import tf_feature_pb2

    _read_field_length(file)
    while file.tell() < end:
        length = _read_field_length(file)
        if length < _SMALL_BYTES:
            field = bytes((10, length)) + file.read(length)
            features = tf_feature_pb2.Features.FromString(field).feature
            if name in features:
                kind = features[name].WhichOneof("kind")
                return tuple(getattr(features[name], kind).value) if kind else ()
        else:
            file.seek(min(file.tell() + length, end))
    raise IndexError(f"no feature {name}")


def _read_field_length(file):
    """Reads to the content of a protobuf field: a byte of tag, then the length.

    Bytes of the length have seven bits each, the lowest first; the last is below 128.
    """
    file.read(1)
    length, bits, byte = 0, 0, 128
    while byte >= 128:
        byte = file.read(1)[0]
        length |= (byte & 127) << bits
        bits += 7
    return length


def damaged(path, reason):
    """The error of a data set whose files are not whole."""
    return ValueError(f"{path} is damaged ({reason}); prepare the data set again.")
