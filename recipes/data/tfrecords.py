"""TFRecord files, read without TensorFlow.

A file is a sequence of records, each stored as its length (8 bytes), a checksum of the
length (4 bytes), the data, and a checksum of the data (4 bytes).
"""

from . import storage


def scan(path):
    """Finds the records in a file without reading their data.

    Yields:
        Start and length of a record, and the file positioned at its start.
    """
    # A small buffer, to read features of a record without much of its image.
    with storage.open_file(path, buffering=512) as file:
        size = file.seek(0, 2)
        start = 0
        while start < size:
            file.seek(start)
            header = file.read(12)
            length = int.from_bytes(header[:8], "little")
            first, start = start + 12, start + 12 + length + 4
            if len(header) < 12 or start > size:
                raise ValueError("it is truncated")
            yield first, length, file


def read(path, start, length):
    """Returns the bytes of a record."""
    # Opening the file each time takes microseconds and is thread-safe; ImageNet has
    # more files than a process may keep open.
    return storage.read(path, start, length)
