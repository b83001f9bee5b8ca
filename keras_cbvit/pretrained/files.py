"""From the name of published weights to a verified file on this machine."""

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from keras_cbvit.layers.arguments import shown
from keras_cbvit.pretrained.architectures import FAMILIES, SIZES
from keras_cbvit.pretrained.catalog import (
    PLACE_VARIABLE,
    TIMEOUT_SECONDS,
    is_url,
    list_weights,
    places,
    read_catalog,
)

SUFFIXES = (".keras", ".weights.h5")


def locate(weights, architecture=None):
    """Finds the file of `weights=` and verifies it.

    Args:
        weights: a tag, a full name, or the path of a `.keras` or `.weights.h5` file.
        architecture: the name that a tag is completed with, `"vitcb_s"`.

    Returns:
        The path of a file that exists. The file of a tag or name has the SHA-256 of
        its record.

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
        return path
    if "." not in weights and architecture is None:
        raise ValueError(
            f"weights={shown(weights)} is a tag, which needs a model of a known size: "
            "give a full name such as 'vitcb_s.imagenet', or use ViTCB_Ti, ViTCB_S or "
            f"ViTCB_B. {_known()}"
        )
    name = weights if "." in weights else f"{architecture}.{weights}"
    for place in places():
        record = read_catalog(place).get(name)
        if record is not None:
            return _file_of(record, place)
    raise ValueError(_missing(weights, name))


def _known():
    names = list_weights()
    return f"Known weights: {', '.join(names) if names else 'none yet'}."


def _missing(weights, name):
    message = (
        f"weights={shown(weights)}: there are no published weights {shown(name)}. "
        f"{_known()}"
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
            f"and publishes them. Set {PLACE_VARIABLE}=FOLDER, or copy {name}.keras "
            "and its record in catalog.json into weights/, to use them here."
        )
    return message


def _file_of(record, place):
    if not is_url(place):
        path = Path(place) / record.filename
        if path.exists():
            if sha256(path) != record.sha256:
                raise OSError(
                    f"{path} is not the file of its record in catalog.json: its "
                    "SHA-256 differs, so it is damaged or was replaced. Restore it, "
                    "or publish it again."
                )
            return path
        if record.url is None:
            raise FileNotFoundError(
                f"The catalog of {place} lists {record.name}, but {path} is missing "
                "and the record has no URL to fetch it from."
            )
        return fetch(record.url, record)
    return fetch(f"{place.rstrip('/')}/{record.filename}", record)


def cache_folder():
    """`keras_cbvit` in Keras's own folder."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home) / "keras_cbvit"


def fetch(url, record):
    """The verified file of a record in the cache, fetched from `url` if need be.

    A damaged file, in the cache or fresh from the net, is deleted and fetched once
    more. The file appears in the cache only when it is whole and right, so that
    any number of processes may fetch it at once.

    Raises:
        OSError: if the file cannot be fetched, or is wrong again.
    """
    # The hash is in the name: files of two versions of a record never meet.
    folder = cache_folder()
    path = folder / f"{record.name}-{record.sha256[:12]}.keras"
    if path.exists() and sha256(path) == record.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        handle, partial = tempfile.mkstemp(dir=folder, suffix=".part")
        os.close(handle)
        try:
            _download(url, partial)
            if sha256(partial) == record.sha256:
                os.replace(partial, path)
                return path
        finally:
            Path(partial).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    raise OSError(
        f"{url} was fetched twice and is not the file of the record {record.name!r}: "
        f"its SHA-256 is not {record.sha256}. Nothing was kept."
    )


def _download(url, path):
    try:
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response,
            open(path, "wb") as file,
        ):
            while chunk := response.read(1 << 20):
                file.write(chunk)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise OSError(f"{url} cannot be fetched ({error}).") from error


def sha256(path):
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
