"""TFRecord files without TensorFlow.

A file is a row of: length of the record (8 bytes), checksum of the length (4), record,
checksum of the record (4).
"""

from . import storage


def scan(path):
    """Finds the records in a file; of them only what is asked for is read.

    Yields:
        Start and length of a record, and a file that stands at its start.
    """
    # The small buffer holds what is wanted of a record, and little of its image.
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
    """The bytes of a record."""
    # Opened each time: that takes microseconds, is safe in threads, and ImageNet has
    # more files than a process may keep open.
    return storage.read(path, start, length)
