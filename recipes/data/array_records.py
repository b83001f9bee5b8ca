"""ArrayRecord files, read by the package array_record without TensorFlow.

The start of a record, as in `recipes.data.tfrecords`, is its number in the file.
"""

import functools
import io

_OPEN = 128  # maximum number of open files; macOS allows 256 per process


def scan(path):
    """Reads all records of a file entirely, since each is compressed as a whole.

    Yields:
        Start and length of a record, and an in-memory file with its bytes.
    """
    for start in range(_reader(path).num_records()):
        record = read(path, start)
        yield start, len(record), io.BytesIO(record)


def read(path, start, length=None):
    """Returns the bytes of a record."""
    return _reader(path).read([start])[0]


@functools.lru_cache(_OPEN)
def _reader(path):
    """Opens a reader, which any number of threads may share."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")
    if not reader.ok():
        reader.close()  # raises the error
    return reader
