"""The catalog of published weights: its records, and where they are looked for.

A place for weights is a folder, or the URL of one, with a `catalog.json` and the
files it lists. `KERAS_CBVIT_WEIGHTS` may name one; the other is `weights/`, which
is part of the checkout and of the installed package.
"""

import dataclasses
import hashlib
import json
import os
import re
import sys
import warnings
from pathlib import Path

from keras_cbvit.pretrained import network
from keras_cbvit.pretrained.architectures import NAME
from keras_cbvit.pretrained.writing import write

PLACE_VARIABLE = "KERAS_CBVIT_WEIGHTS"
CATALOG = "catalog.json"
LARGEST_FILE = 1 << 50  # bytes
LARGEST_CATALOG = 16 << 20  # bytes; a record of 20,000 classes takes half a million


@dataclasses.dataclass(frozen=True)
class WeightsRecord:
    """What is known of one published file, as `catalog.json` keeps it.

    Attributes:
        name: `architecture.tag`, for instance `"vitcb_s.imagenet"`.
        sha256: SHA-256 of the file, hexadecimal.
        bytes: size of the file.
        input_shape: `[height, width, channels]` of the images; a side is `None` if it
            may be any.
        class_names: names of the classes in the order of the predictions; empty
            for a model without a head.
        parameters: number of the model's parameters.
        dataset: what it was trained on.
        metric: what was measured, for instance `"top-1 accuracy"`.
        value: the measured value.
        measured_on: the images it was measured on, with their number.
        recipe: the command that made the file.
        licence: SPDX identifier of the file's licence.
        keras_version: version of Keras that wrote the file.
        date: day of publication, `YYYY-MM-DD`.
        url: where the file can be fetched if it is not beside the catalog.
    """

    name: str
    sha256: str
    bytes: int
    input_shape: list[int | None]
    class_names: list[str]
    parameters: int
    dataset: str
    metric: str
    value: float
    measured_on: str
    recipe: str
    licence: str
    keras_version: str
    date: str
    url: str | None = None

    @property
    def stem(self):
        """What the names of the file and of its card begin with.

        Two versions never have the same, so that a catalog alone decides which is used.
        """
        return f"{self.name}-{self.sha256[:12]}"

    @property
    def filename(self):
        return f"{self.stem}.keras"


def list_weights():
    """Names of the published weights, sorted.

    `load_model` takes each, and `weights=` those of classifiers.

    They come from the folder or URL in the environment variable
    `KERAS_CBVIT_WEIGHTS`, if set, and from the package's own `weights/`. A URL that
    cannot be read is warned of; its catalog is then the last one that was.

    Raises:
        ValueError: if a catalog is not valid.
        OSError: if the folder in `KERAS_CBVIT_WEIGHTS` cannot be read.
    """
    return sorted({name for _, records in catalogs() for name in records})


def catalogs():
    """The places with their records by name, as pairs, in the order of `places`.

    A place on the net that cannot be read, or that has no valid catalog (as where a
    network first asks for a login), is warned of, so that weights that are on this
    machine can be used. The last copy of its catalog is taken, or no records.

    Raises:
        ValueError: if the catalog of a folder is not valid.
        OSError: if a folder cannot be read.
    """
    return [(place, _records_of(place)) for place in places()]


def _records_of(place):
    try:
        return read_catalog(place)
    except (OSError, ValueError) as error:
        if not is_url(place):
            raise
        copy = _copy_of(place)
        try:
            records = parse_catalog(_read_file(copy), copy)
            instead = f"Its catalog as it was before, {copy}, is used."
        except (OSError, ValueError):  # there is none, or it is damaged
            records = {}
            instead = "Its weights are not known, only the package's own."
        warnings.warn(f"{error} {instead}", stacklevel=4)
        return records


def _copy_of(place):
    """Where the last catalog of a place on the net is kept."""
    digest = hashlib.sha256(place.rstrip("/").encode(errors="replace")).hexdigest()
    return cache_folder() / f"catalog-{digest[:16]}.json"


def cache_folder():
    """`keras_cbvit` in Keras's own folder."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home) / "keras_cbvit"


def places():
    """Where weights are looked for, in this order."""
    named = os.environ.get(PLACE_VARIABLE)
    if named and not is_url(named):
        named = str(Path(named).expanduser())
    return ([named] if named else []) + [str(own_folder())]


def own_folder():
    """`weights/` of the installed package, or of the checkout."""
    package = Path(__file__).parent.parent
    installed = package / "weights"
    return installed if installed.is_dir() else package.parent / "weights"


def is_url(place):
    """Whether a place is a URL, not a folder."""
    return "://" in str(place)


def read_catalog(place):
    """The records of a place by name; empty for a folder without a catalog.

    Raises:
        ValueError: if the catalog is not valid, with the record and the field.
        OSError: if the folder does not exist or the URL cannot be read.
    """
    if is_url(place):
        where = f"{place.rstrip('/')}/{CATALOG}"
        text = network.read(where, LARGEST_CATALOG)
        records = parse_catalog(text, where)
        _keep_copy(place, text)
        return records
    where = Path(place) / CATALOG
    if not where.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {place}; set {PLACE_VARIABLE} to a folder or URL with "
            f"a {CATALOG}, or unset it."
        )
    return parse_catalog(_read_file(where), where) if where.exists() else {}


def _keep_copy(place, text):
    """Keeps the catalog of a place on the net for times without a network."""
    copy = _copy_of(place)
    try:
        if not copy.is_file() or copy.read_bytes() != text:
            copy.parent.mkdir(parents=True, exist_ok=True)
            write(copy, text)
    except OSError as error:  # a home that cannot be written to, or is full
        warnings.warn(f"No copy of the catalog is kept. {error}", stacklevel=2)


def _read_file(path):
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file.")
    if path.stat().st_size > LARGEST_CATALOG:
        raise ValueError(f"{path} has more than {LARGEST_CATALOG:,} bytes.")
    return path.read_bytes()


def parse_catalog(text, where):
    """Records by name from the JSON text of a catalog; `where` is for messages."""
    try:
        entries = json.loads(text)["weights"]
        records = [_record(entry) for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{where} is not a valid catalog of weights: {_reason(error)}. Restore it "
            "from the repository, or publish the weights again."
        ) from error
    by_name = {record.name: record for record in records}
    if len(by_name) < len(records):
        raise ValueError(f"{where} is not a valid catalog: it lists a name twice.")
    return by_name


def check_record(record):
    """Raises a ValueError that names the field of a record that cannot be kept."""
    try:
        _record(dataclasses.asdict(record))
    except ValueError as error:
        raise ValueError(f"This cannot be published: {error}.") from error


def format_catalog(records):
    """The JSON text of a catalog of these records, sorted by name."""
    entries = [
        dataclasses.asdict(record)
        for record in sorted(records, key=lambda record: record.name)
    ]
    return json.dumps({"weights": entries}, indent=2) + "\n"


def _reason(error):
    if isinstance(error, KeyError):
        return f"the key {error} is missing"
    return str(error)


_TYPES = {
    str: lambda value: isinstance(value, str),
    int: lambda value: type(value) is int,
    float: lambda value: (
        type(value) in (int, float) and abs(value) <= sys.float_info.max
    ),
    list[int | None]: lambda value: (
        isinstance(value, list)
        and all(item is None or type(item) is int for item in value)
    ),
    list[str]: lambda value: (
        isinstance(value, list) and all(isinstance(item, str) for item in value)
    ),
    str | None: lambda value: value is None or isinstance(value, str),
}


def _record(entry):
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise ValueError(f"every record needs a name, but one is {entry!r:.80}")
    fields = {field.name: field.type for field in dataclasses.fields(WeightsRecord)}
    unknown = sorted(entry.keys() - fields.keys())
    if unknown:
        raise ValueError(f"the record {name!r} has the unknown field {unknown[0]!r}")
    for field, kind in fields.items():
        if field not in entry and kind != str | None:
            raise ValueError(f"the record {name!r} has no field {field!r}")
        if not _TYPES[kind](entry.get(field)):
            expected = kind.__name__ if isinstance(kind, type) else kind
            raise ValueError(
                f"the field {field!r} of the record {name!r} is {entry[field]!r:.80}, "
                f"not a {expected}"
            )
    # Both are parts of names of files.
    for field, pattern in (("name", NAME), ("sha256", "[0-9a-f]{64}")):
        if not re.fullmatch(pattern, entry[field]):
            raise ValueError(
                f"the field {field!r} of the record {name!r:.80} is "
                f"{entry[field]!r:.80}, which does not match {pattern}"
            )
    if not 1 <= entry["bytes"] < LARGEST_FILE:
        raise ValueError(f"the file of the record {name!r} has {entry['bytes']} bytes")
    return WeightsRecord(**entry)
