"""Files on disks and in object stores, by paths and URLs such as gs://bucket/folder.

Stores are read by fsspec and etils, which come with Grain, and what fsspec asks for:
gcsfs for gs://, s3fs for s3://, adlfs for az://, huggingface_hub for hf://.
"""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from keras_cbvit import files

SCHEMES = ("gs", "s3", "az", "hf")
"""Of the URLs that `etils.epath` and TFDS take."""
_BLOCK = 8 << 20  # bytes that are asked for at once where a whole file is read
# Where TensorFlow is installed, etils would read by it; worker processes have none.
os.environ.setdefault("EPATH_USE_TF", "false")


def is_url(path):
    """Whether a path is of an object store."""
    return "://" in os.fspath(path)


def path_of(text):
    """The path that a text is, pathlib's, or of a URL etils's, which is used like it.

    Raises:
        ValueError: if it is a URL of another kind of store.
        OSError: if a package is missing that reads it.
    """
    if not is_url(text):
        return Path(text).expanduser()
    from etils import epath

    with _store(text) as (_, url):
        return epath.Path(url)


@contextlib.contextmanager
def _store(url, deed="read"):
    """The file system of a URL, which fsspec keeps, and the URL as a string.

    What it raises, which is of its own kind, becomes an OSError with the URL.
    """
    import fsspec

    url = os.fspath(url)
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in SCHEMES)
        raise ValueError(f"{url} cannot be {deed}; URLs begin with {known}.")
    try:
        yield fsspec.filesystem(scheme), url
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise OSError(f"{url} cannot be {deed} ({reason}).") from error


def open_file(path, buffering):
    """A file to read; of a disk with a buffer of so many bytes."""
    if not is_url(path):
        return open(path, "rb", buffering=buffering)
    with _store(path) as (store, url):
        return store.open(url, "rb", block_size=_BLOCK)


def read(path, start=0, length=None):
    """The bytes of a file; with a length, so many of them from the start on."""
    if is_url(path):
        limits = {} if length is None else {"start": start, "end": start + length}
        with _store(path) as (store, url):
            return store.cat_file(url, **limits)
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(length)


def size(path):
    """The bytes in a file. Of a store, a listing of its folder has told them."""
    if is_url(path):
        with _store(path) as (store, url):
            return store.size(url)
    return os.path.getsize(path)


def version(path):
    """What changes as soon as a file does: its size and the time of its last change."""
    if is_url(path):
        with _store(path) as (store, url):
            return store.size(url), str(store.modified(url))
    facts = os.stat(path)
    return facts.st_size, facts.st_mtime_ns


def write(path, content):
    """Writes a file, which is there as a whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    if not is_url(path):
        return files.write(Path(path), content)
    with _store(path, "written") as (store, url):
        store.pipe_file(url, bytes(content))


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a folder of a store holds, in the way of `os.DirEntry`."""

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
    """What a folder holds, by name, as `os.DirEntry` or the like."""
    if not is_url(folder):
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    with _store(folder) as (store, url):
        infos = store.ls(url, detail=True)
    found = {
        info["name"].rstrip("/").rpartition("/")[2]: info["type"]
        for info in infos
        # Some stores hold an empty object for the folder itself.
        if not url.endswith(info["name"].strip("/"))
    }
    return [Entry(n, f"{url}/{n}", kind) for n, kind in sorted(found.items())]


class Objects(Sequence):
    """Encoded images in a store by index, each read when it is asked for."""

    def __init__(self, urls):
        self.urls = urls

    def __len__(self):
        return len(self.urls)

    def __getitem__(self, index):
        return read(self.urls[index])


def encoded(paths):
    """The images of paths as `recipes.data.pictures.Pictures` takes them."""
    return Objects(paths) if is_url(paths[0]) else paths
