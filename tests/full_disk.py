"""A disk that is full, without one: no file may get larger than so many bytes."""

import contextlib
import resource


@contextlib.contextmanager
def no_file_over(number):
    """Within it, the system refuses to write a file of more bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files_in(folder):
    """The content of each file in a folder and its folders, by its place."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
