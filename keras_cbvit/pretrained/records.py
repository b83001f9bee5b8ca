"""Records of published weights, and their catalogs."""

import dataclasses
import json
import re
import sys
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAME = r"[a-z0-9_]+\.[a-z0-9_]+"  # of published weights: architecture.tag
CATALOG = "catalog.json"
VERSION = 2
"""Version of the catalog's format; weights/convert.py converts version 1."""
LARGEST_FILE = 1 << 50  # bytes
LARGEST_CATALOG = 16 << 20  # bytes; a record of 20,000 classes takes half a million


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of images for a model."""

    image_size: list[int] | None = None
    """Height and width to resize to; `None` for images of any size."""
    crop_fraction: float = 1.0
    """Fraction of the short side that a center crop keeps, before the resize."""
    interpolation: str = "bicubic"
    """Interpolation of the resize."""
    model_normalizes: bool = True
    """Whether the model itself normalizes values of 0-255."""
    mean: list[float] = dataclasses.field(default_factory=list)
    """Means of red, green and blue for images of values 0-1."""
    std: list[float] = dataclasses.field(default_factory=list)
    """Standard deviations, likewise."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Measured results of a model, with the data and the command."""

    task: str
    """`"classification"` or `"segmentation"` for the recipes."""
    dataset: str
    """The data set as in the recipes: a TFDS name, or `./` and the name of a custom
    folder or file."""
    split: str
    metrics: dict[str, float]
    """Measured values by name, the most important one first."""
    images: int
    """Number of images."""
    command: str
    """The command that reproduces the results."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Other options of the data set, named as in the recipe of the task."""
    notes: str = ""
    """Additional remarks, in one sentence."""


@dataclasses.dataclass(frozen=True)
class WeightsRecord:
    """The entry of a published file in `catalog.json`."""

    name: str
    """`architecture.tag`, for instance `"vitcb_s.imagenet"`."""
    sha256: str
    """SHA-256 of the file, hexadecimal."""
    bytes: int
    """Size of the file."""
    architecture: dict[str, Any]
    """The class of the model and its arguments."""
    parameters: int
    """Number of the model's parameters."""
    input_shape: list[int | None]
    """`[height, width, channels]` of the images; `None` for a side of any size."""
    preprocessing: Preprocessing
    class_names: list[str]
    """Class names in the order of the predictions; empty for a model without a head."""
    evaluations: list[Evaluation]
    trained_on: str
    recipe: str
    """The command that produced the file."""
    license: str
    """SPDX identifier of the file's license."""
    keras_version: str
    """Version of Keras that wrote the file."""
    date: str
    """Day of publication, `YYYY-MM-DD`."""
    url: str | None = None
    """URL of the file, if it is not stored beside the catalog."""

    @property
    def stem(self) -> str:
        """Prefix of the names of the file and its card, unique for each version."""
        return f"{self.name}-{self.sha256[:12]}"

    @property
    def filename(self) -> str:
        return f"{self.stem}.keras"


def read_catalog_file(path: Path) -> dict[str, WeightsRecord]:
    """Reads the records of a catalog by name.

    Raises:
        ValueError: if the catalog is not valid.
        OSError: if the catalog cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file.")
    if path.stat().st_size > LARGEST_CATALOG:
        raise ValueError(f"{path} is larger than {LARGEST_CATALOG:,} bytes.")
    return parse_catalog(path.read_bytes(), path)


def parse_catalog(text: str | bytes, where: Any) -> dict[str, WeightsRecord]:
    """Parses the JSON of a catalog to records by name; `where` is for messages.

    Raises:
        ValueError: if the catalog is not valid.
    """
    try:
        found = json.loads(text)
        entries = found["weights"]
        if found.get("version", 1) != VERSION:
            raise ValueError(
                f"its version is {found.get('version', 1)!r:.20}, not {VERSION}; "
                "`python weights/convert.py FOLDER` in a checkout converts version 1"
            )
        records = [_record(entry) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = error
        if isinstance(error, KeyError):
            reason = f"the key {error} is missing"
        raise ValueError(
            f"{where} is not a valid catalog: {reason}. Restore it from the repository "
            "or publish the weights again."
        ) from error
    by_name = {record.name: record for record in records}
    if len(by_name) < len(records):
        raise ValueError(f"{where} is not a valid catalog: it lists a name twice.")
    return by_name


def format_catalog(records: Iterable[WeightsRecord]) -> str:
    """Formats records as the JSON of a catalog, sorted by name."""
    entries = [
        dataclasses.asdict(each) for each in sorted(records, key=lambda r: r.name)
    ]
    return json.dumps({"version": VERSION, "weights": entries}, indent=1) + "\n"


def check_record(record: WeightsRecord) -> None:
    """Raises a ValueError if a field of a record is not valid."""
    try:
        _record(json.loads(json.dumps(dataclasses.asdict(record))))
    except (ValueError, TypeError) as error:
        raise ValueError(f"The record is not valid: {error}.") from error


def _record(entry):
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise ValueError(f"a record has no name: {entry!r:.80}")
    record = _read(entry, WeightsRecord, f"the record {name!r:.80}")
    # Both are parts of file names.
    for field, pattern in (("name", NAME), ("sha256", "[0-9a-f]{64}")):
        if not re.fullmatch(pattern, entry[field]):
            raise ValueError(
                f"the field {field!r} of the record {name!r:.80} is "
                f"{entry[field]!r:.80} and does not match {pattern}"
            )
    if not 1 <= record.bytes < LARGEST_FILE:
        raise ValueError(f"the file of the record {name!r} has {record.bytes} bytes")
    return record


def _read(value, kind, what) -> Any:
    """Converts a JSON value to a type, which may be a nested dataclass."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict):
            raise ValueError(f"{what} is {value!r:.80}, not a {kind.__name__}")
        if unknown := sorted(value.keys() - hints.keys()):
            raise ValueError(f"{what} has the unknown field {unknown[0]!r:.80}")
        required = {
            field.name
            for field in dataclasses.fields(kind)
            if field.default is field.default_factory is dataclasses.MISSING
        }
        if missing := sorted(required - value.keys()):
            raise ValueError(f"{what} has no field {missing[0]!r}")
        return kind(
            **{
                name: _read(each, hints[name], f"the field {name!r} of {what}")
                for name, each in value.items()
            }
        )
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType and value is not None:
        return _read(value, parts[0], what)
    if origin is list and isinstance(value, list):
        return [_read(each, parts[0], what) for each in value]
    if origin is dict and isinstance(value, dict):
        return {key: _read(each, parts[1], what) for key, each in value.items()}
    if not _has_type(value, kind):
        expected = kind.__name__ if isinstance(kind, type) else kind
        raise ValueError(f"{what} is {value!r:.80}, not a {expected}")
    return value


def _has_type(value, kind):
    if kind is Any:
        return True
    if parts := typing.get_args(kind):
        return value is None and type(None) in parts
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return type(value) is kind
