"""Atomic writes and file locks."""

import contextlib
import errno
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path


class InMemory(io.BytesIO):
    """A named file in memory that Keras can save to and load from.

    HDF5 itself prints a thousand lines on a full disk, and may crash.
    """

    def __init__(self, name: str, content: bytes = b""):
        super().__init__(content)
        # Not `name`, which Keras would use as a path.
        self._display_name = name

    def __str__(self):
        return self._display_name


def write(path: Path, content: bytes | memoryview) -> None:
    """Writes a file atomically.

    Args:
        path: path of the file.
        content: the bytes to write.

    Raises:
        OSError: if the file cannot be written; reports the free space on a full disk.
    """
    partial = path.with_name(f"partial.{path.name}")
    with describe_errors(path, len(content)):
        try:
            with open(partial, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def whole_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary folder that becomes `folder` at the end of the context.

    Args:
        folder: must not exist, or be empty; not the current directory.

    Raises:
        FileExistsError: if the folder is not empty or is the current directory.
        OSError: if the folder cannot be created.
    """
    given, folder = folder, Path(folder).resolve()
    if folder == Path.cwd():  # it cannot be replaced from within
        raise FileExistsError(
            f"{given} is the current directory; use a folder that does not exist."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{given} exists; use a folder that does not exist.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        complete = Path(temporary) / folder.name
        complete.mkdir()
        yield complete
        os.replace(complete, folder)


@contextlib.contextmanager
def describe_errors(path: Path, size: int) -> Iterator[None]:
    """Adds the path, and on a full disk the sizes, to OSErrors within the context."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.ENOSPC:
            free = shutil.disk_usage(path.parent).free
            reason += f": it takes {size:,} bytes, {free:,} are free"
        described = type(error)(f"{path} cannot be written ({reason}).")
        described.errno = error.errno
        raise described from error


def lock_file(path: Path, timeout: float = -1) -> AbstractContextManager:
    """Returns a context that holds an interprocess lock.

    The operating system releases the lock when the process ends.

    Args:
        path: path of the lock file.
        timeout: seconds to wait before a `TimeoutError`; -1 to wait forever.
    """
    import filelock  # slow to import

    return filelock.FileLock(path, timeout=timeout)
