"""TFRecord files without TensorFlow."""

import os
from collections.abc import Sequence

import numpy as np


class Records(Sequence):
    """The encoded images of a TFDS split in TFRecord files, by index.

    A TFRecord file is a row of: length of the record (8 bytes), checksum of the
    length (4), record, checksum of the record (4).
    """

    def __init__(self, builder, split, decoders):
        self.features = builder.info.features
        self.decoders = decoders
        self.places = []
        for path in builder.info.splits[split].filepaths:
            if ".tfrecord" not in path.name:
                raise ValueError(
                    f"{path} is not a TFRecord file; install tensorflow to read it."
                )
            self.places += [(str(path), *place) for place in _record_places(path)]
        expected = builder.info.splits[split].num_examples
        if len(self) != expected:
            raise damaged(builder.data_path, f"{len(self)} records, not {expected}")

    def __len__(self):
        return len(self.places)

    def __getitem__(self, index):
        return self._example(index)["image"]

    def labels(self):
        """All labels, without decoding the images."""
        labels = [self._example(i)["label"] for i in range(len(self))]
        return np.array(labels, "int64")

    def _example(self, index):
        path, start, length = self.places[index]
        with open(path, "rb") as file:
            file.seek(start)
            record = file.read(length)
        return self.features.deserialize_example_np(record, decoders=self.decoders)


def _record_places(path):
    """Start and length of each record in a TFRecord file."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = 0
        while start < size:
            header = file.read(8)
            length = int.from_bytes(header, "little")
            first, start = start + 12, start + 12 + length + 4
            if len(header) < 8 or start > size:
                raise damaged(path, "it is truncated")
            yield first, length
            file.seek(start)


def damaged(path, reason):
    """The error of a data set whose files are not whole."""
    return ValueError(f"{path} is damaged ({reason}); prepare the data set again.")
