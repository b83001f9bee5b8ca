"""From the name of published weights to a verified file on this machine."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from keras_cbvit.layers.arguments import shown
from keras_cbvit.pretrained import network
from keras_cbvit.pretrained.architectures import FAMILIES, SIZES
from keras_cbvit.pretrained.catalog import (
    PLACE_VARIABLE,
    cache_folder,
    catalogs,
    is_url,
)
from keras_cbvit.pretrained.writing import locked

SUFFIXES = (".keras", ".weights.h5")


def locate(weights, architecture=None):
    """The path of the file of `weights=`, verified; see `located`."""
    return located(weights, architecture)[0]


def located(weights, architecture=None):
    """Finds the file of `weights=` and verifies it.

    Args:
        weights: a tag, a full name, or the path of a `.keras` or `.weights.h5` file.
        architecture: the name that a tag is completed with, `"vitcb_s"`.

    Returns:
        The path of a file that exists, and its record, `None` if it was named by its
        path. The file of a tag or name has the SHA-256 of its record.

    Raises:
        FileNotFoundError: if a path leads nowhere.
        ValueError: on an unknown tag or name, with the known ones.
        OSError: if a file cannot be fetched, or is not the one of its record.
    """
    if not isinstance(weights, str | os.PathLike):
        raise ValueError(f"weights={shown(weights)} must be None, a name or a path.")
    is_path = isinstance(weights, os.PathLike) or os.sep in weights
    if is_path or weights.endswith(SUFFIXES):
        path, asked = Path(weights).expanduser(), shown(str(weights), 300)
        if not str(path).endswith(SUFFIXES):
            raise ValueError(
                f"weights={asked} is a path, but not of a .keras or .weights.h5 file."
            )
        if not os.path.isfile(path):  # not the path's own, which fails on long ones
            raise FileNotFoundError(f"weights={asked}: there is no such file.")
        return path, None
    if "." not in weights and architecture is None:
        raise ValueError(
            f"weights={shown(weights)} is a tag, which needs a model of a known size: "
            "give a full name such as 'vitcb_s.imagenet', or use ViTCB_Ti, ViTCB_S or "
            f"ViTCB_B. {_known(catalogs())}"
        )
    name = weights if "." in weights else f"{architecture}.{weights}"
    place, record = _record_of(weights, name)
    try:
        return _file_of(record, place), record
    except OSError:
        # It may have been published anew after its catalog was read.
        place, newer = _record_of(weights, name)
        if newer == record:
            raise
        return _file_of(newer, place), newer


def _record_of(weights, name):
    """The place and the record of a full name."""
    found = catalogs()
    for place, records in found:
        if name in records:
            return place, records[name]
    raise ValueError(_missing(weights, name, found))


def _known(found):
    names = sorted({name for _, records in found for name in records})
    return f"Known weights: {', '.join(names) if names else 'none yet'}."


def _missing(weights, name, found):
    message = (
        f"weights={shown(weights)}: there are no published weights {shown(name)}. "
        f"{_known(found)}"
    )
    architecture, _, tag = name.partition(".")
    family, _, size = architecture.partition("_")
    broadcasts = {name: broadcast for broadcast, name in FAMILIES.items()}
    if tag == "imagenet" and family in broadcasts and size in SIZES:
        broadcast = broadcasts[family]
        message += (
            " Nobody has trained and published ImageNet weights of this model yet. "
            "From a checkout, on a machine with GPUs and ImageNet-1k, "
            f"`python -m recipes.train imagenet --model ViTCB_{size.capitalize()} "
            f"--broadcast {broadcast} --publish {name} --weights-dir FOLDER` trains "
            f"and publishes them. Set {PLACE_VARIABLE}=FOLDER to use them here."
        )
    return message


def _file_of(record, place):
    if is_url(place):
        return fetch(f"{place.rstrip('/')}/{record.filename}", record)
    path = Path(place) / record.filename
    if path.exists():
        if sha256(path) != record.sha256:
            raise OSError(
                f"{path} is not the file of its record in catalog.json: its SHA-256 "
                "differs, so it is damaged or was replaced. Restore it, or publish it "
                "again."
            )
        return path
    if record.url is None:
        raise FileNotFoundError(
            f"The catalog of {place} lists {record.name}, but {path} is missing and "
            "the record has no URL to fetch it from."
        )
    return fetch(record.url, record)


def fetch(url, record):
    """The verified file of a record in the cache, fetched from `url` if need be.

    What is wrong is fetched once more. The file appears in the cache only when it is
    whole and right, so that any number of processes may fetch it at once.

    Raises:
        OSError: if the file cannot be fetched, or is wrong again.
    """
    # The hash is in the name: files of two versions of a record never meet.
    folder = cache_folder()
    path = folder / record.filename
    if path.exists() and sha256(path) == record.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    _remove_partial_files(folder)
    for _ in range(2):
        with _partial_file(folder) as partial:
            os.truncate(partial, record.bytes)
            _download(url, partial)
            size = partial.stat().st_size
            if size == record.bytes and sha256(partial) == record.sha256:
                os.replace(partial, path)
                return path
    wrong = f"its SHA-256 is not {record.sha256}"
    if size != record.bytes:
        larger = "more" if size > record.bytes else f"{size:,}"
        wrong = f"it has {larger} bytes, not {record.bytes:,}"
    raise OSError(
        f"{url} was fetched twice and is not the file of the record {record.name!r}: "
        f"{wrong}. Nothing was kept."
    )


@contextlib.contextmanager
def _partial_file(folder):
    """The path of an empty file to download into, which is gone afterwards.

    A lock that dies with this process tells others that it is in use.
    """
    handle, lock = tempfile.mkstemp(dir=folder, suffix=".lock")
    os.close(handle)
    partial = _locked_by(lock)
    try:
        with locked(lock):
            partial.touch()
            yield partial
    finally:
        partial.unlink(missing_ok=True)
        Path(lock).unlink(missing_ok=True)


def _remove_partial_files(folder):
    """Removes what processes left that were killed while they downloaded."""
    for lock in folder.glob("*.lock"):
        with contextlib.suppress(OSError):  # a TimeoutError if it is in use
            with locked(lock, timeout=0):
                _locked_by(lock).unlink(missing_ok=True)
            lock.unlink(missing_ok=True)


def _locked_by(lock):
    return Path(lock).with_suffix(".part")


def _download(url, path):
    """Fills a file with the content behind a URL, of which it has the right size.

    More than one byte beyond this size is not taken.
    """
    most = path.stat().st_size + 1
    with open(path, "wb") as file:
        for chunk in network.chunks(url, most):
            file.write(chunk)


def sha256(path):
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
