"""Records of TFDS by index, without TensorFlow."""

import contextlib
import copy
import hashlib
import importlib.util
import io
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from . import array_records, storage, tfrecords

# Each has `scan(path)` and `read(path, start, length)`.
_FORMATS = {".tfrecord": tfrecords, ".array_record": array_records}
# Features of a record that are larger than this are skipped in search of another one.
_SMALL_BYTES = 128


class Records(Sequence):
    """One feature of a TFDS split by index: the encoded images.

    Where each record is, and its label, is written beside the files, where that is
    possible, and is read from there as long as the files are as they were.

    Args:
        builder: a TFDS builder whose files are there, TFRecord or ArrayRecord.
        split: the split's name.
        label: the name of the feature that is the label; `None` if there is none of
            one number.
        feature: the name of the feature that indexing gives, of bytes.

    Attributes:
        labels: the label of each record, int64; 0 if there is none.

    Raises:
        ValueError: if the files are of another format, or damaged.
    """

    def __init__(self, builder, split, label: str | None = "label", feature="image"):
        self.split = split
        self.feature = feature
        self.paths = [os.fspath(path) for path in builder.info.splits[split].filepaths]
        self.format = _format_of(self.paths)
        folder = storage.path_of(builder.data_path)
        cache = folder / f"keras_cbvit-{split}-{label}.npz"
        self.ends, index = _cached(cache, self.paths, lambda: self._index(label))
        self.starts, self.lengths, self.labels = index
        expected = builder.info.splits[split].num_examples
        if len(self) != expected:
            raise damaged(builder.data_path, f"{len(self)} records, not {expected}")

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        from tensorflow_datasets.proto import tf_example_pb2

        path, place = self._path(index), (self.starts[index], self.lengths[index])
        with _naming(path):
            record = _FORMATS[self.format].read(path, *map(int, place))
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

        def of_file(path):
            return [values for *_, values in self._scan(path, feature)]

        with ThreadPoolExecutor() as pool:
            return list(itertools.chain.from_iterable(pool.map(of_file, self.paths)))

    def name(self, index):
        """Where a record is, for messages."""
        return f"{self._path(index)}, record {index} of the split {self.split!r}"

    def _path(self, index):
        return self.paths[np.searchsorted(self.ends, index, side="right")]

    def _index(self, label):
        """The number after each file's last record; all starts, lengths and labels."""

        def of_file(path):
            found = self._scan(path, label, lambda values: int(values[0]))
            # Arrays: a million records as tuples would take hundreds of megabytes.
            rows = [(start, length, value or 0) for start, length, value in found]
            return np.array(rows, "int64").reshape(-1, 3)

        with ThreadPoolExecutor() as pool:  # disks answer many at once
            found = list(pool.map(of_file, self.paths))
        return np.cumsum([len(rows) for rows in found]), np.concatenate(found).T.copy()

    def _scan(self, path, feature, convert: Callable = tuple):
        """Yields of each record in a file start, length and the values of a feature.

        Of a TFRecord file the images' bytes, nearly all of it, are not read.
        """
        from google.protobuf.message import DecodeError

        with _naming(path):
            records = _FORMATS[self.format].scan(path)
            for number, (start, length, file) in enumerate(records):
                end = file.tell() + length
                try:
                    values = feature and convert(_read_values(file, end, feature))
                except (DecodeError, IndexError, ValueError) as error:
                    reason = f"record {number} of the file has no {feature}"
                    raise ValueError(reason) from error
                yield start, length, values


def _format_of(paths):
    """The ending, among those of `_FORMATS`, that all files have before their number.

    TFDS names them like cifar10-train.tfrecord-00000-of-00002.
    """
    for ending in _FORMATS:
        if all(ending in os.path.basename(path) for path in paths):
            break
    else:
        raise ValueError(
            f"{paths[0]} is not a TFRecord or ArrayRecord file; prepare the data set "
            "with file_format='array_record'."
        )
    if ending == ".array_record" and importlib.util.find_spec("array_record") is None:
        raise ValueError(
            f"{paths[0]} is read by the package array_record, which is not installed "
            "(there is none for Windows); prepare the data set with "
            "file_format='tfrecord'."
        )
    if ending == ".array_record" and storage.is_url(paths[0]):
        raise ValueError(
            f"{paths[0]} is in an object store, where only TFRecord files are read; "
            "copy the data set to a disk."
        )
    return ending


def _cached(cache, paths, make):
    """What `make` returns, ends and index, or what it returned before.

    Args:
        cache: path of the file in which they are kept.
        paths: the files that they are made from. While all are of the same name, size
            and time, what is in the cache holds.
        make: a function without arguments.
    """
    with ThreadPoolExecutor() as pool:
        versions = list(pool.map(storage.version, paths))
    facts = list(map(os.path.basename, paths)), versions
    key = hashlib.sha256(repr(facts).encode()).hexdigest()
    # Of many kinds of damage, which NumPy notices by checksums: it is made again.
    with contextlib.suppress(Exception):
        found = np.load(io.BytesIO(storage.read(cache)))
        if found["key"] == key:
            return found["ends"], found["index"]
    ends, index = make()
    content = io.BytesIO()
    np.savez(content, key=key, ends=ends, index=index)
    with contextlib.suppress(OSError):  # a folder or disk that takes no more files
        storage.write(cache, content.getbuffer())
    return ends, index


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


@contextlib.contextmanager
def _naming(path):
    """Has whatever a file's content raises name the file."""
    from google.protobuf.message import DecodeError

    try:
        yield
    except (DecodeError, IndexError, RuntimeError, ValueError) as error:
        raise damaged(path, error) from error


def damaged(path, reason):
    """The error of a data set whose files are not whole."""
    return ValueError(f"{path} is damaged ({reason}); prepare the data set again.")
