"""The cache of downloaded files, which are complete and verified.

`keras.utils.get_file` and pooch do not limit the size of a download before they verify
the hash, and remove files that other processes put into the cache.
"""

import hashlib
import os
from pathlib import Path

from keras_cbvit.files import lock_file
from keras_cbvit.pretrained import network
from keras_cbvit.pretrained.records import WeightsRecord


def folder() -> Path:
    """Returns `keras_cbvit` in Keras's folder."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home) / "keras_cbvit"


def download(url: str, record: WeightsRecord) -> Path:
    """Returns the verified file of a record, downloaded from `url` if necessary.

    A download that does not match the record is repeated once. Only complete and
    verified files appear in the cache. Concurrent processes wait for one to download.

    Raises:
        OSError: if the file cannot be downloaded or does not match its record.
    """
    # The name has the hash, so versions of a record do not conflict.
    path = folder() / record.filename
    if _is_valid(path, record):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # The lock file is never removed, since other processes may wait for it.
    with lock_file(path.with_name(f"{path.name}.lock")):
        if not _is_valid(path, record):
            _download(url, record, path)
    return path


def _is_valid(path, record):
    return path.exists() and sha256(path) == record.sha256


def _download(url, record, path):
    # A fixed name, so that the file of a killed process is overwritten.
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
    reason = f"its SHA-256 is not {record.sha256}"
    if size != record.bytes:
        larger = "more" if size > record.bytes else f"{size:,}"
        reason = f"it has {larger} bytes, not {record.bytes:,}"
    raise OSError(
        f"{url} was downloaded twice and does not match the record {record.name!r}: "
        f"{reason}. Nothing was saved."
    )


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
