"""The catalog of published weights: its records, and where they are looked for.

A place for weights is a folder, or the URL of one, with a `catalog.json` and the
files it lists. `KERAS_CBVIT_WEIGHTS` may name one; the other is `weights/`, which
is part of the checkout and of the installed package.
"""

import dataclasses
import json
import math
import os
import urllib.error
import urllib.request
from pathlib import Path

PLACE_VARIABLE = "KERAS_CBVIT_WEIGHTS"
CATALOG = "catalog.json"
TIMEOUT_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class WeightsRecord:
    """What is known of one published file, as `catalog.json` keeps it.

    Attributes:
        name: `architecture.tag`, for instance `"vitcb_s.imagenet"`.
        sha256: SHA-256 of the file `{name}.keras`, hexadecimal.
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
    def filename(self):
        return f"{self.name}.keras"


def list_weights():
    """Names of the published weights, sorted.

    `load_model` takes each, and `weights=` those of classifiers.

    They come from the folder or URL in the environment variable
    `KERAS_CBVIT_WEIGHTS`, if set, and from the package's own `weights/`.

    Raises:
        ValueError: if a catalog is not valid.
        OSError: if the place in `KERAS_CBVIT_WEIGHTS` cannot be read.
    """
    return sorted({name for place in places() for name in read_catalog(place)})


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
        try:
            with urllib.request.urlopen(where, timeout=TIMEOUT_SECONDS) as response:
                text = response.read()
        except urllib.error.URLError as error:
            raise OSError(f"{where} cannot be read ({error}).") from error
    else:
        where = Path(place) / CATALOG
        if not where.parent.is_dir():
            raise FileNotFoundError(
                f"There is no folder {place}; set {PLACE_VARIABLE} to a folder or URL "
                f"with a {CATALOG}, or unset it."
            )
        if not where.exists():
            return {}
        text = where.read_bytes()
    return parse_catalog(text, where)


def parse_catalog(text, where):
    """Records by name from the JSON text of a catalog; `where` is for messages."""
    try:
        entries = json.loads(text)["weights"]
        records = [_record(entry) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{where} is not a valid catalog of weights: {_reason(error)}. Restore it "
            "from the repository, or publish the weights again."
        ) from error
    by_name = {record.name: record for record in records}
    if len(by_name) < len(records):
        raise ValueError(f"{where} is not a valid catalog: it lists a name twice.")
    return by_name


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
    float: lambda value: type(value) in (int, float) and math.isfinite(value),
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
    return WeightsRecord(**entry)
