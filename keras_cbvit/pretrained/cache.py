"""The cache of downloaded files: each is there as a whole and right, or not at all.

Hand-written, since `keras.utils.get_file` and pooch download any number of bytes
before they look at the hash, and remove what other processes have put into the cache.
"""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from keras_cbvit.files import locked
from keras_cbvit.pretrained import network
from keras_cbvit.pretrained.records import WeightsRecord


def folder() -> Path:
    """`keras_cbvit` in Keras's own folder."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home) / "keras_cbvit"


def download(url: str, record: WeightsRecord) -> Path:
    """The verified file of a record in the cache, downloaded from `url` if need be.

    What is wrong is downloaded once more. The file appears in the cache only when it is
    whole and right, so any number of processes may download it at once.

    Raises:
        OSError: if the file cannot be downloaded, or is wrong again.
    """
    # The hash is in the name: files of two versions of a record never meet.
    path = folder() / record.filename
    if path.exists() and sha256(path) == record.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_partial_files(path.parent)
    size = 0
    for _ in range(2):
        with _partial_file(path.parent) as partial:
            with open(partial, "wb") as file:
                for chunk in network.chunks(url, record.bytes + 1):
                    file.write(chunk)
            size = partial.stat().st_size
            if size == record.bytes and sha256(partial) == record.sha256:
                os.replace(partial, path)
                return path
    wrong = f"its SHA-256 is not {record.sha256}"
    if size != record.bytes:
        larger = "more" if size > record.bytes else f"{size:,}"
        wrong = f"it has {larger} bytes, not {record.bytes:,}"
    raise OSError(
        f"{url} was downloaded twice and is not the file of the record "
        f"{record.name!r}: {wrong}. Nothing was kept."
    )


@contextlib.contextmanager
def _partial_file(directory):
    """The path of an empty file to download into, which is gone afterwards.

    A lock that dies with this process tells others that it is in use.
    """
    handle, name = tempfile.mkstemp(dir=directory, suffix=".lock")
    os.close(handle)
    lock = Path(name)
    partial = _locked_by(lock)
    try:
        with locked(lock):
            partial.touch()
            yield partial
    finally:
        partial.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)


def _remove_partial_files(directory):
    """Removes what processes left that were killed while they downloaded."""
    for lock in directory.glob("*.lock"):
        with contextlib.suppress(OSError):  # a TimeoutError if it is in use
            with locked(lock, timeout=0):
                _locked_by(lock).unlink(missing_ok=True)
            lock.unlink(missing_ok=True)


def _locked_by(lock):
    return lock.with_suffix(".part")


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
