"""ArrayRecord files, by the library of that name, which needs no TensorFlow.

A record is found by its number in the file, which is its start here.
"""

import functools
import io

_OPEN = 128  # files at most; macOS lets a process have 256


def scan(path):
    """Reads the records in a file: each is compressed as a whole.

    Yields:
        Start and length of a record, and a file in memory that holds it.
    """
    for start in range(_reader(path).num_records()):
        record = read(path, start)
        yield start, len(record), io.BytesIO(record)


def read(path, start, length=None):
    """The bytes of a record."""
    return _reader(path).read([start])[0]


@functools.lru_cache(_OPEN)
def _reader(path):
    """A reader of a file, for any number of threads."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")
    if not reader.ok():
        reader.close()  # raises what is wrong
    return reader
