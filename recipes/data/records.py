"""Random access to TFDS records without TensorFlow."""

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
# Features of a record larger than this are skipped when scanning for another feature.
_SMALL_BYTES = 128


class Records(Sequence):
    """Sequence of one feature of a TFDS split: the encoded images.

    The positions and labels of all records are cached in a file next to the data, if
    possible, and read from there as long as the data files do not change.

    Args:
        builder: a TFDS builder with prepared TFRecord or ArrayRecord files.
        split: name of the split.
        label: name of the label feature, a single number; `None` for none.
        feature: name of the bytes feature that indexing returns.

    Attributes:
        labels: label of each record, int64; 0 without a label feature.

    Raises:
        ValueError: if the files have another format or are damaged.
    """

    def __init__(self, builder, split, label: str | None = "label", feature="image"):
        self.split = split
        self.feature = feature
        self.paths = [os.fspath(path) for path in builder.info.splits[split].filepaths]
        self.format = _format_of(self.paths)
        folder = storage.path_of(builder.data_path)
        cache = folder / f"keras_cbvit-{split}-{label}.npz"
        self.ends, index = _load_or_make(cache, self.paths, lambda: self._index(label))
        self.starts, self.lengths, self.labels = index
        expected = builder.info.splits[split].num_examples
        if len(self) != expected:
            raise damage_error(
                builder.data_path, f"{len(self)} records, not {expected}"
            )

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        from tensorflow_datasets.proto import tf_example_pb2

        path, place = self._path(index), (self.starts[index], self.lengths[index])
        with _name_file_in_errors(path):
            record = _FORMATS[self.format].read(path, *map(int, place))
            # Ten times as fast as TFDS's `deserialize_example_np`.
            example = tf_example_pb2.Example.FromString(record)
            return example.features.feature[self.feature].bytes_list.value[0]

    def of(self, feature):
        """Returns the same records with another bytes feature, without rereading."""
        records = copy.copy(self)
        records.feature = feature
        return records

    def values(self, feature):
        """Returns the values of another small feature, a tuple per record."""

        def of_file(path):
            return [values for *_, values in self._scan(path, feature)]

        with ThreadPoolExecutor() as pool:
            return list(itertools.chain.from_iterable(pool.map(of_file, self.paths)))

    def name(self, index):
        """Returns the location of a record, for messages."""
        return f"{self._path(index)}, record {index} of the split {self.split!r}"

    def _path(self, index):
        return self.paths[np.searchsorted(self.ends, index, side="right")]

    def _index(self, label):
        """Returns each file's end index, and all starts, lengths and labels."""

        def of_file(path):
            found = self._scan(path, label, lambda values: int(values[0]))
            # A million tuples would take hundreds of megabytes.
            rows = [(start, length, value or 0) for start, length, value in found]
            return np.array(rows, "int64").reshape(-1, 3)

        with ThreadPoolExecutor() as pool:  # disks serve parallel requests
            found = list(pool.map(of_file, self.paths))
        return np.cumsum([len(rows) for rows in found]), np.concatenate(found).T.copy()

    def _scan(self, path, feature, convert: Callable = tuple):
        """Yields start, length and the values of a feature for each record of a file.

        It skips the image data, which is nearly all of a TFRecord file.
        """
        from google.protobuf.message import DecodeError

        with _name_file_in_errors(path):
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
    """Returns the extension, a key of `_FORMATS`, that all file names contain.

    TFDS uses names such as cifar10-train.tfrecord-00000-of-00002.
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
            f"Reading {paths[0]} requires the package array_record, which is not "
            "installed (it does not support Windows); install it, or prepare the data "
            "set with file_format='tfrecord'."
        )
    if ending == ".array_record" and storage.is_url(paths[0]):
        raise ValueError(
            f"{paths[0]} is in an object store, where only TFRecord files are "
            "supported; copy the data set to a disk."
        )
    return ending


def _load_or_make(cache, paths, make):
    """Returns the result of `make`, ends and index, from a cache file if possible.

    Args:
        cache: path of the cache file.
        paths: paths of the data files. The cache is valid as long as their names,
            sizes and modification times do not change.
        make: function without arguments.
    """
    with ThreadPoolExecutor() as pool:
        versions = list(pool.map(storage.version, paths))
    facts = list(map(os.path.basename, paths)), versions
    key = hashlib.sha256(repr(facts).encode()).hexdigest()
    # A damaged cache raises various errors; it is then recreated.
    with contextlib.suppress(Exception):
        found = np.load(io.BytesIO(storage.read(cache)))
        if found["key"] == key:
            return found["ends"], found["index"]
    ends, index = make()
    content = io.BytesIO()
    np.savez(content, key=key, ends=ends, index=index)
    with contextlib.suppress(OSError):  # the folder may be read-only, or the disk full
        storage.write(cache, content.getbuffer())
    return ends, index


def _read_values(file, end, name) -> tuple:
    """Reads the values of a feature in the `tf.train.Example` from here to `end`.

    An example is one field of features, which contains one field per feature.
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
    """Reads the header of a protobuf field, a tag byte and the length.

    Each byte of the length holds seven bits, lowest first; the last is below 128.
    """
    file.read(1)
    length, bits, byte = 0, 0, 128
    while byte >= 128:
        byte = file.read(1)[0]
        length |= (byte & 127) << bits
        bits += 7
    return length


@contextlib.contextmanager
def _name_file_in_errors(path):
    """Adds the path to errors about the content of a file."""
    from google.protobuf.message import DecodeError

    try:
        yield
    except (DecodeError, IndexError, RuntimeError, ValueError) as error:
        raise damage_error(path, error) from error


def damage_error(path, reason):
    """Returns the error for a damaged data set."""
    return ValueError(f"{path} is damaged ({reason}); prepare the data set again.")
