"""Files that are written as a whole or not at all, and by one process at a time."""

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
    """A file in memory that Keras saves into, or loads from, by its name.

    HDF5 that writes to a full disk itself prints a thousand lines, and may crash.
    """

    def __init__(self, name: str, content: bytes = b""):
        super().__init__(content)
        # Not `name`, which Keras would take for a place on the disk.
        self._called = name

    def __str__(self):
        return self._called


def write(path: Path, content: bytes | memoryview) -> None:
    """Writes a file, which is there as a whole or not at all.

    Args:
        path: where to.
        content: bytes, or what holds some.

    Raises:
        OSError: if it cannot be written, with what is missing if that is space.
    """
    partial = path.with_name(f"partial.{path.name}")
    with naming(path, len(content)):
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
    """A folder to write into, which is `folder` once all is in it.

    Args:
        folder: must not exist, or be empty; not the working folder of this process.

    Raises:
        FileExistsError: if there is something in the folder, or it is the working one.
        OSError: if it cannot be made.
    """
    given, folder = folder, Path(folder).resolve()
    if folder == Path.cwd():  # what replaces it would not be seen from within it
        raise FileExistsError(
            f"{given} is the working folder; give a folder that does not exist."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{given} exists; give a folder that does not.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        complete = Path(temporary) / folder.name
        complete.mkdir()
        yield complete
        os.replace(complete, folder)


@contextlib.contextmanager
def naming(path: Path, size: int) -> Iterator[None]:
    """Within it, an error of the disk names the file that was to have so many bytes."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.ENOSPC:
            free = shutil.disk_usage(path.parent).free
            reason += f": it takes {size:,} bytes, {free:,} are free"
        named = type(error)(f"{path} cannot be written ({reason}).")
        named.errno = error.errno
        raise named from error


def locked(path: Path, timeout: float = -1) -> AbstractContextManager:
    """A context in which no other process is that asks for the lock of this path.

    The lock is gone with the process that has it, however that ends.

    Args:
        path: of a file for the lock alone.
        timeout: seconds to wait for it before a `TimeoutError`; -1 for ever.
    """
    import filelock  # takes a fifth of the time that importing this package may add

    return filelock.FileLock(path, timeout=timeout)
