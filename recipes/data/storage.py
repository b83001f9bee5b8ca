"""Files on disk and in object stores, by path or by URL such as gs://bucket/folder.

Object stores are read by fsspec and etils, which are dependencies of Grain, and by the
packages that fsspec requires: gcsfs for gs://, s3fs for s3://, adlfs for az://, and
huggingface_hub for hf://.
"""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from keras_cbvit import files

SCHEMES = ("gs", "s3", "az", "hf")
"""Schemes of the URLs that `etils.epath` and TFDS support."""
_BLOCK = 8 << 20  # bytes per request when reading a whole file
# Prevents etils from using TensorFlow, which worker processes cannot import.
os.environ.setdefault("EPATH_USE_TF", "false")


def is_url(path):
    """Returns whether a path is the URL of an object store."""
    return "://" in os.fspath(path)


def path_of(text):
    """Converts text to a `pathlib.Path`, or a URL to an `etils.epath.Path`.

    Raises:
        ValueError: if the URL has an unsupported scheme.
        OSError: if the package for the URL is not installed.
    """
    if not is_url(text):
        return Path(text).expanduser()
    from etils import epath

    with _store(text) as (_, url):
        return epath.Path(url)


@contextlib.contextmanager
def _store(url, deed="read"):
    """Context manager of a URL's file system, which fsspec caches, and the URL string.

    Errors of the file system become an OSError that names the URL.
    """
    import fsspec

    url = os.fspath(url)
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in SCHEMES)
        raise ValueError(f"{url} cannot be {deed}; URLs must start with {known}.")
    try:
        yield fsspec.filesystem(scheme), url
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise OSError(f"{url} cannot be {deed} ({reason}).") from error


def open_file(path, buffering):
    """Opens a file for reading; `buffering` is the buffer size in bytes on disk."""
    if not is_url(path):
        return open(path, "rb", buffering=buffering)
    with _store(path) as (store, url):
        return store.open(url, "rb", block_size=_BLOCK)


def read(path, start=0, length=None):
    """Returns the bytes of a file, or `length` bytes from `start`."""
    if is_url(path):
        limits = {} if length is None else {"start": start, "end": start + length}
        with _store(path) as (store, url):
            return store.cat_file(url, **limits)
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(length)


def size(path):
    """Returns the size of a file in bytes; for URLs, from the cached folder listing."""
    if is_url(path):
        with _store(path) as (store, url):
            return store.size(url)
    return os.path.getsize(path)


def version(path):
    """Returns a file's size and modification time, which change with its content."""
    if is_url(path):
        with _store(path) as (store, url):
            return store.size(url), str(store.modified(url))
    facts = os.stat(path)
    return facts.st_size, facts.st_mtime_ns


def write(path, content):
    """Writes a file atomically.

    Raises:
        OSError: if the file cannot be written.
    """
    if not is_url(path):
        return files.write(Path(path), content)
    with _store(path, "written") as (store, url):
        store.pipe_file(url, bytes(content))


@dataclasses.dataclass(frozen=True)
class Entry:
    """Entry of a folder in an object store, with the interface of `os.DirEntry`."""

    name: str
    path: str
    kind: str

    def is_dir(self):
        return self.kind == "directory"

    def is_file(self):
        return self.kind == "file"

    def is_symlink(self):
        return False


def entries(folder):
    """Returns the entries of a folder, sorted by name, as `os.DirEntry` or `Entry`."""
    if not is_url(folder):
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    with _store(folder) as (store, url):
        infos = store.ls(url, detail=True)
    found = {
        info["name"].rstrip("/").rpartition("/")[2]: info["type"]
        for info in infos
        # Some stores contain an empty object for the folder itself.
        if not url.endswith(info["name"].strip("/"))
    }
    return [Entry(n, f"{url}/{n}", kind) for n, kind in sorted(found.items())]


class Objects(Sequence):
    """Sequence of encoded images in an object store, read on access."""

    def __init__(self, urls):
        self.urls = urls

    def __len__(self):
        return len(self.urls)

    def __getitem__(self, index):
        return read(self.urls[index])


def encoded_images(paths):
    """Converts paths to encoded images for `recipes.data.images.Images`."""
    return Objects(paths) if is_url(paths[0]) else paths
