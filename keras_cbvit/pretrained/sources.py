"""Where weights lie: files, the Hugging Face hub, and sources of published weights.

Published weights are in folders and behind URLs, each with a catalog.
`KERAS_CBVIT_WEIGHTS` may name one; the others are `weights/`, which is part of the
checkout and of the installed package, and DeiT's. A source of another kind is a class
with the methods of `Source`, and a line in `source_of` or `sources`.
"""

import hashlib
import os
import warnings
from pathlib import Path
from typing import Protocol

from keras_cbvit.arguments import shown
from keras_cbvit.files import write
from keras_cbvit.models.registry import UPERNET, known_models
from keras_cbvit.pretrained import cache, hub, network
from keras_cbvit.pretrained.deit import DeiT
from keras_cbvit.pretrained.formats import SUFFIXES
from keras_cbvit.pretrained.records import (
    CATALOG,
    LARGEST_CATALOG,
    WeightsRecord,
    parse_catalog,
    read_catalog_file,
)

PLACE_VARIABLE = "KERAS_CBVIT_WEIGHTS"


class Source(Protocol):
    """A place that weights come from."""

    def records(self) -> dict[str, WeightsRecord]:
        """What it has, by name.

        Raises:
            ValueError: if its catalog is not valid.
            OSError: if it cannot be read.
        """
        ...

    def file(self, record: WeightsRecord) -> Path:
        """The file of one of its records on this machine, whose SHA-256 is right.

        Of weights on the Hugging Face hub, it is the folder that they are in.

        Raises:
            OSError: if it cannot be downloaded, or is another.
        """
        ...


class Folder:
    """A folder with a catalog and the files it lists."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path).expanduser()

    def __str__(self) -> str:
        return str(self.path)

    def records(self) -> dict[str, WeightsRecord]:
        """Its records by name; none if it has no catalog."""
        if not self.path.is_dir():
            raise FileNotFoundError(
                f"There is no folder {self.path}; set {PLACE_VARIABLE} to a folder or "
                f"URL with a {CATALOG}, or unset it."
            )
        catalog = self.path / CATALOG
        return read_catalog_file(catalog) if catalog.exists() else {}

    def file(self, record: WeightsRecord) -> Path:
        """The file beside the catalog, or else the one behind the record's URL."""
        path = self.path / record.filename
        if path.exists():
            if cache.sha256(path) != record.sha256:
                raise OSError(
                    f"{path} is not the file of its record in {CATALOG}: its SHA-256 "
                    "differs, so it is damaged or was replaced. Restore it, or publish "
                    "it again."
                )
            return path
        if record.url is None:
            raise FileNotFoundError(
                f"The catalog of {self} lists {record.name}, but {path} is missing and "
                "the record has no URL to download it from."
            )
        return cache.download(record.url, record)


class Url:
    """The URL of a folder with a catalog and the files it lists.

    If it cannot be read, or has no valid catalog (as where a network first asks for a
    login), a warning says so and the last catalog that could be read is used, so that
    weights that are on this machine stay usable.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __str__(self) -> str:
        return self.url

    def records(self) -> dict[str, WeightsRecord]:
        """Its records by name; those of before, or none, without a connection."""
        where = f"{self.url}/{CATALOG}"
        try:
            text = network.read(where, LARGEST_CATALOG)
            found = parse_catalog(text, where)
        except (OSError, ValueError) as error:
            return self._records_of_before(error)
        self._keep(text)
        return found

    def file(self, record: WeightsRecord) -> Path:
        """The file in the cache, downloaded if need be."""
        return cache.download(f"{self.url}/{record.filename}", record)

    @property
    def _copy(self):
        """Where the last catalog is kept."""
        digest = hashlib.sha256(self.url.encode(errors="replace")).hexdigest()
        return cache.folder() / f"catalog-{digest[:16]}.json"

    def _records_of_before(self, error):
        try:
            found = read_catalog_file(self._copy)
            instead = f"Its catalog as it was before, {self._copy}, is used."
        except (OSError, ValueError):  # there is none, or it is damaged
            found = {}
            instead = "Its weights are not known, only the package's own."
        warnings.warn(f"{error} {instead}", stacklevel=4)
        return found

    def _keep(self, text):
        copy = self._copy
        try:
            if not copy.is_file() or copy.read_bytes() != text:
                copy.parent.mkdir(parents=True, exist_ok=True)
                write(copy, text)
        except OSError as error:  # a home that cannot be written to, or is full
            warnings.warn(f"No copy of the catalog is kept. {error}", stacklevel=4)


def source_of(place: str) -> Source:
    """The source that a place names: a URL, or a folder."""
    return Url(place) if "://" in place else Folder(place)


def sources() -> list[Source]:
    """Where weights are looked for, in this order."""
    named = os.environ.get(PLACE_VARIABLE)
    return ([source_of(named)] if named else []) + [Folder(own_folder()), DeiT()]


def own_folder() -> Path:
    """`weights/` of the installed package, or of the checkout."""
    package = Path(__file__).parent.parent
    installed = package / "weights"
    return installed if installed.is_dir() else package.parent / "weights"


def list_weights() -> list[str]:
    """Names of the published weights, sorted.

    `load_model` takes each, and `weights=` those of classifiers.

    They come from the folder or URL in the environment variable
    `KERAS_CBVIT_WEIGHTS`, if set, from the package's own `weights/`, and, of plain ViTs
    on ImageNet, from DeiT. A URL that cannot be read is warned of; its catalog is then
    the last one that was.

    Raises:
        ValueError: if a catalog is not valid.
        OSError: if the folder in `KERAS_CBVIT_WEIGHTS` cannot be read.
    """
    return sorted(known_records())


def known_records() -> dict[str, WeightsRecord]:
    """The records of all sources by name; of two of one name, that of the first."""
    found = {}
    for source in sources():
        found = source.records() | found
    return found


def find_record(name: str) -> WeightsRecord:
    """The record of a full name.

    Raises:
        ValueError: if there is none, with the known names.
    """
    return _find(name, [name])[1]


def is_name(weights: str) -> bool:
    """Whether `weights=` is a tag or a full name, and no handle or path."""
    is_handle = weights.startswith(hub.PREFIX)
    return not (is_handle or os.sep in weights or weights.endswith(SUFFIXES))


def locate(
    weights: str | os.PathLike, *architectures: str
) -> tuple[Path, WeightsRecord | None]:
    """Finds the file of `weights=` and verifies it.

    Args:
        weights: a tag, a full name, a handle `"hf://owner/name"`, or the path of a file
            of weights or of a folder in Hugging Face's layout.
        *architectures: the names that a tag is completed with, `"vitcb_s"`; the first
            that there are weights of counts.

    Returns:
        The path of a file or folder that exists, and its record, `None` of a handle or
        path. The file of a tag or name has the SHA-256 of its record.

    Raises:
        FileNotFoundError: if a path leads nowhere.
        ValueError: on an unknown tag or name, with the known ones, and on a handle that
            is none.
        OSError: if a file cannot be downloaded, or is not the one of its record.
    """
    if isinstance(weights, str) and weights.startswith(hub.PREFIX):
        return hub.fetch(weights), None
    if isinstance(weights, os.PathLike) or not is_name(weights):
        return _existing(weights), None
    if "." not in weights and not architectures:
        raise ValueError(
            f"weights={shown(weights)} is a tag, which needs a model of a known size: "
            "give a full name such as 'vitcb_s.imagenet', or use ViTCB_Ti, ViTCB_S or "
            f"ViTCB_B. {_known_names()}"
        )
    names = [weights]
    if "." not in weights:
        names = [f"{architecture}.{weights}" for architecture in architectures]
    source, record = _find(weights, names)
    try:
        return source.file(record), record
    except OSError:
        # It may have been published again after its catalog was read.
        source, newer = _find(weights, names)
        if newer == record:
            raise
        return source.file(newer), newer


def _existing(weights):
    path, text = Path(weights).expanduser(), shown(str(weights), 300)
    if os.path.isdir(path) and path.suffix != ".keras":
        return path
    handle, advice = hub.suggest_handle(str(weights)), ""
    if handle is not None and not handle.endswith(SUFFIXES):
        advice = f" For a repository of the Hugging Face hub, write {handle!r}."
    if not str(path).endswith(SUFFIXES):
        raise ValueError(
            f"weights={text} is neither a folder nor a file that ends in "
            f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.{advice}"
        )
    if not os.path.isfile(path):  # not the path's own, which fails on long ones
        raise FileNotFoundError(f"weights={text}: there is no such file.{advice}")
    return path


def _find(weights, names):
    """The source and the record of the first of some full names that has one."""
    places = [(source, source.records()) for source in sources()]
    for name in names:
        for source, records in places:
            if name in records:
                return source, records[name]
    raise ValueError(
        f"weights={shown(weights)}: there are no published weights {shown(names[0])}. "
        f"{_known_names()}{_how_to_train(names[0])}"
    )


def _known_names():
    return f"Known weights: {', '.join(list_weights()) or 'none yet'}."


def _how_to_train(name):
    architecture, _, tag = name.partition(".")
    is_classifier = architecture in known_models() and not name.startswith(UPERNET)
    if tag != "imagenet" or not is_classifier:
        return ""
    return (
        " There are no ImageNet weights of this model yet. Start from DeiT's with "
        "broadcast='cbs', which predicts as DeiT and learns to broadcast; or turn them "
        "into CB, on a machine with GPUs and ImageNet-1k: `keras-cbvit train "
        f"imagenet_anneal --publish {name} --weights-dir FOLDER`. Set "
        f"{PLACE_VARIABLE}=FOLDER to use them here."
    )
