"""Locates weights: files, the Hugging Face Hub, and sources of published weights.

Sources of published weights are folders and URLs with a catalog: the one in
`KERAS_CBVIT_WEIGHTS`, if set, `weights/` of the checkout or the installed package, and
DeiT's weights. To add another kind of source, write a class with the methods of
`Source` and add it to `source_of` or `sources`.
"""

import hashlib
import os
import warnings
from pathlib import Path
from typing import Protocol

from keras_cbvit.arguments import format_value
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
    """A source of published weights."""

    def records(self) -> dict[str, WeightsRecord]:
        """Returns the records of the weights by name.

        Raises:
            ValueError: if the catalog is not valid.
            OSError: if the catalog cannot be read.
        """
        ...

    def file(self, record: WeightsRecord) -> Path:
        """Returns the local, verified file of a record.

        For weights on the Hugging Face Hub, returns their folder.

        Raises:
            OSError: if the file cannot be downloaded or does not match the record.
        """
        ...


class Folder:
    """A folder with a catalog and the files it lists."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path).expanduser()

    def __str__(self) -> str:
        return str(self.path)

    def records(self) -> dict[str, WeightsRecord]:
        """Returns the records by name; none without a catalog."""
        if not self.path.is_dir():
            raise FileNotFoundError(
                f"The folder {self.path} does not exist; set {PLACE_VARIABLE} to a "
                f"folder or URL with a {CATALOG}, or unset it."
            )
        catalog = self.path / CATALOG
        return read_catalog_file(catalog) if catalog.exists() else {}

    def file(self, record: WeightsRecord) -> Path:
        """Returns the file beside the catalog, or from the record's URL."""
        path = self.path / record.filename
        if path.exists():
            if cache.sha256(path) != record.sha256:
                raise OSError(
                    f"{path} does not match its record in {CATALOG}: its SHA-256 "
                    "differs, so it is damaged or was replaced. Restore it or publish "
                    "it again."
                )
            return path
        if record.url is None:
            raise FileNotFoundError(
                f"The catalog of {self} lists {record.name}, but {path} does not exist "
                "and the record has no URL."
            )
        return cache.download(record.url, record)


class Url:
    """The URL of a folder with a catalog and the files it lists.

    If the catalog cannot be read or is not valid (for instance behind a login page),
    the source warns and uses the last copy of the catalog, so that downloaded weights
    stay usable.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __str__(self) -> str:
        return self.url

    def records(self) -> dict[str, WeightsRecord]:
        """Returns the records by name, from the last copy if the URL cannot be read."""
        where = f"{self.url}/{CATALOG}"
        try:
            text = network.read(where, LARGEST_CATALOG)
            found = parse_catalog(text, where)
        except (OSError, ValueError) as error:
            return self._copied_records(error)
        self._save_copy(text)
        return found

    def file(self, record: WeightsRecord) -> Path:
        """Returns the file in the cache, downloaded if necessary."""
        return cache.download(f"{self.url}/{record.filename}", record)

    @property
    def _copy(self):
        """Path of the copy of the last catalog."""
        digest = hashlib.sha256(self.url.encode(errors="replace")).hexdigest()
        return cache.folder() / f"catalog-{digest[:16]}.json"

    def _copied_records(self, error):
        try:
            found = read_catalog_file(self._copy)
            fallback = f"Using the last copy of the catalog, {self._copy}."
        except (OSError, ValueError):  # it does not exist or is damaged
            found = {}
            fallback = "Its weights are not available."
        warnings.warn(f"{error} {fallback}", stacklevel=4)
        return found

    def _save_copy(self, text):
        copy = self._copy
        try:
            if not copy.is_file() or copy.read_bytes() != text:
                copy.parent.mkdir(parents=True, exist_ok=True)
                write(copy, text)
        except OSError as error:  # a read-only or full disk
            warnings.warn(f"The catalog was not copied. {error}", stacklevel=4)


def source_of(place: str) -> Source:
    """Returns the source at a URL or in a folder."""
    return Url(place) if "://" in place else Folder(place)


def sources() -> list[Source]:
    """Returns the sources in search order."""
    place = os.environ.get(PLACE_VARIABLE)
    return ([source_of(place)] if place else []) + [Folder(own_folder()), DeiT()]


def own_folder() -> Path:
    """Returns `weights/` of the installed package or of the checkout."""
    package = Path(__file__).parent.parent
    installed = package / "weights"
    return installed if installed.is_dir() else package.parent / "weights"


def list_weights() -> list[str]:
    """Returns the sorted names of the published weights.

    `load_model` takes all of them, `weights=` those of classifiers.

    The weights come from the folder or URL in the environment variable
    `KERAS_CBVIT_WEIGHTS`, if set, from the package's own `weights/`, and from DeiT for
    plain ViTs on ImageNet. If the URL cannot be read, warns and uses the last copy of
    its catalog.

    Raises:
        ValueError: if a catalog is not valid.
        OSError: if the folder in `KERAS_CBVIT_WEIGHTS` cannot be read.
    """
    return sorted(known_records())


def known_records() -> dict[str, WeightsRecord]:
    """Returns the records of all sources by name; earlier sources take precedence."""
    found = {}
    for source in sources():
        found = source.records() | found
    return found


def find_record(name: str) -> WeightsRecord:
    """Returns the record of a full name.

    Raises:
        ValueError: if the name is unknown.
    """
    return _find(name, [name])[1]


def is_name(weights: str) -> bool:
    """Returns whether `weights=` is a tag or a full name, not a handle or path."""
    is_handle = weights.startswith(hub.PREFIX)
    return not (is_handle or os.sep in weights or weights.endswith(SUFFIXES))


def locate(
    weights: str | os.PathLike, *architectures: str
) -> tuple[Path, WeightsRecord | None]:
    """Locates and verifies the file of `weights=`.

    Args:
        weights: a tag, a full name, a handle `"hf://owner/name"`, or the path of a
            weights file or of a folder in Hugging Face's layout.
        *architectures: architecture names to combine with a tag, such as `"vitcb_s"`;
            the first with published weights is used.

    Returns:
        The path of an existing file or folder, and its record, or `None` for a handle
        or path. Published files have the SHA-256 of their record.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a tag or name is unknown, or a handle is invalid.
        OSError: if a file cannot be downloaded or does not match its record.
    """
    if isinstance(weights, str) and weights.startswith(hub.PREFIX):
        return hub.fetch(weights), None
    if isinstance(weights, os.PathLike) or not is_name(weights):
        return _check_exists(weights), None
    if "." not in weights and not architectures:
        raise ValueError(
            f"weights={format_value(weights)} is a tag, which requires a model of a "
            "named size; use ViTCB_Ti, ViTCB_S or ViTCB_B, or a full name such as "
            f"'vitcb_s.imagenet'. {_known_names()}"
        )
    names = [weights]
    if "." not in weights:
        names = [f"{architecture}.{weights}" for architecture in architectures]
    source, record = _find(weights, names)
    try:
        return source.file(record), record
    except OSError:
        # The weights may have been republished after the catalog was read.
        source, newer = _find(weights, names)
        if newer == record:
            raise
        return source.file(newer), newer


def _check_exists(weights):
    path, text = Path(weights).expanduser(), format_value(str(weights), 300)
    if os.path.isdir(path) and path.suffix != ".keras":
        return path
    handle, advice = hub.suggest_handle(str(weights)), ""
    if handle is not None and not handle.endswith(SUFFIXES):
        advice = f" For a Hugging Face repository, use {handle!r}."
    if not os.path.isfile(path):  # path.is_file() raises on long names
        raise FileNotFoundError(f"weights={text} does not exist.{advice}")
    if not str(path).endswith(SUFFIXES):
        raise ValueError(
            f"weights={text} is neither a folder nor a file that ends in "
            f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}."
        )
    return path


def _find(weights, names):
    """Returns the source and record of the first full name that is published."""
    places = [(source, source.records()) for source in sources()]
    for name in names:
        for source, records in places:
            if name in records:
                return source, records[name]
    raise ValueError(
        f"weights={format_value(weights)} is unknown: no weights "
        f"{format_value(names[0])} are published. {_known_names()}"
        f"{_how_to_train(names[0])}"
    )


def _known_names():
    return f"Known weights: {', '.join(list_weights()) or 'none yet'}."


def _how_to_train(name):
    architecture, _, tag = name.partition(".")
    is_classifier = architecture in known_models() and not name.startswith(UPERNET)
    if tag != "imagenet" or not is_classifier:
        return ""
    return (
        " ImageNet weights of this model are not published yet. Start from DeiT's with "
        "broadcast='cbs', which predicts like DeiT and learns to broadcast, or convert "
        "them to CB on a machine with GPUs and ImageNet-1k: `keras-cbvit train "
        f"imagenet_anneal --publish {name} --weights-dir FOLDER`; then set "
        f"{PLACE_VARIABLE}=FOLDER."
    )
