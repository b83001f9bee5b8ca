"""The cache of downloaded files: each is there as a whole and right, or not at all.

Hand-written, since `keras.utils.get_file` and pooch download any number of bytes
before they look at the hash, and remove what other processes have put into the cache.
"""

import hashlib
import os
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
    whole and right. Of processes that ask for it at once one downloads it, and the
    others wait for that.

    Raises:
        OSError: if the file cannot be downloaded, or is wrong again.
    """
    # The hash is in the name: files of two versions of a record never meet.
    path = folder() / record.filename
    if _is_right(path, record):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # The lock's file stays: to remove it would take it from those who wait.
    with locked(path.with_name(f"{path.name}.lock")):
        if not _is_right(path, record):
            _download(url, record, path)
    return path


def _is_right(path, record):
    return path.exists() and sha256(path) == record.sha256


def _download(url, record, path):
    # Its name is always the same: what a killed process left is written over.
    partial = path.with_name(f"{path.name}.part")
    size = 0
    try:
        for _ in range(2):
            with open(partial, "wb") as file:
                for chunk in network.chunks(url, record.bytes + 1):
                    file.write(chunk)
            size = partial.stat().st_size
            if size == record.bytes and sha256(partial) == record.sha256:
                os.replace(partial, path)
                return
    finally:
        partial.unlink(missing_ok=True)
    wrong = f"its SHA-256 is not {record.sha256}"
    if size != record.bytes:
        larger = "more" if size > record.bytes else f"{size:,}"
        wrong = f"it has {larger} bytes, not {record.bytes:,}"
    raise OSError(
        f"{url} was downloaded twice and is not the file of the record "
        f"{record.name!r}: {wrong}. Nothing was kept."
    )


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
