"""What is known of published weights, and the catalogs that list it."""

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
"""Of the catalog's form. Version 1 had no number; weights/convert.py reads it."""
LARGEST_FILE = 1 << 50  # bytes
LARGEST_CATALOG = 16 << 20  # bytes; a record of 20,000 classes takes half a million


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an input of the model."""

    image_size: list[int] | None = None
    """Height and width that images are resized to; `None` for images of any size."""
    crop_fraction: float = 1.0
    """The centered share of the short side that is kept, before resizing."""
    interpolation: str = "bicubic"
    """How images are resized."""
    normalized: bool = True
    """Whether the model normalizes values of 0-255 itself."""
    mean: list[float] = dataclasses.field(default_factory=list)
    """Of red, green and blue in images of values 0-1, for whoever normalizes."""
    std: list[float] = dataclasses.field(default_factory=list)
    """Their standard deviations."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was measured of a model, on what, and how to measure it again."""

    task: str
    """`"classification"` or `"segmentation"` for the recipes."""
    dataset: str
    """The data set as the recipes take it: a TFDS name, or the name of a folder or file
    of one's own after `./`."""
    split: str
    metrics: dict[str, float]
    """The measured values by name, the most important one first."""
    images: int
    """How many were measured."""
    command: str
    """That measures it again."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Other options of the data set, as the recipe of the task has them."""
    notes: str = ""
    """What else there is to know, in a sentence."""


@dataclasses.dataclass(frozen=True)
class WeightsRecord:
    """What is known of one published file, as `catalog.json` keeps it."""

    name: str
    """`architecture.tag`, for instance `"vitcb_s.imagenet"`."""
    sha256: str
    """SHA-256 of the file, hexadecimal."""
    bytes: int
    """Size of the file."""
    architecture: dict[str, Any]
    """The class of the model and the arguments it is built from."""
    parameters: int
    """Number of the model's parameters."""
    input_shape: list[int | None]
    """`[height, width, channels]` of the images; a side is `None` if it may be any."""
    preprocessing: Preprocessing
    class_names: list[str]
    """In the order of the predictions; empty for a model without a head."""
    evaluations: list[Evaluation]
    trained_on: str
    recipe: str
    """The command that made the file."""
    license: str
    """SPDX identifier of the file's license."""
    keras_version: str
    """Version of Keras that wrote the file."""
    date: str
    """Day of publication, `YYYY-MM-DD`."""
    url: str | None = None
    """Where the file can be downloaded from if it is not beside the catalog."""

    @property
    def stem(self) -> str:
        """What the names of the file and of its card begin with.

        Two versions never have the same, so the catalog alone decides which is used.
        """
        return f"{self.name}-{self.sha256[:12]}"

    @property
    def filename(self) -> str:
        return f"{self.stem}.keras"


def read_catalog_file(path: Path) -> dict[str, WeightsRecord]:
    """The records in a catalog by name.

    Raises:
        ValueError: if the catalog is not valid, with the record and the field.
        OSError: if it cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file.")
    if path.stat().st_size > LARGEST_CATALOG:
        raise ValueError(f"{path} has more than {LARGEST_CATALOG:,} bytes.")
    return parse_catalog(path.read_bytes(), path)


def parse_catalog(text: str | bytes, where: Any) -> dict[str, WeightsRecord]:
    """Records by name from the JSON text of a catalog; `where` is for messages.

    Raises:
        ValueError: if the catalog is not valid, with the record and the field.
    """
    try:
        found = json.loads(text)
        entries = found["weights"]
        if found.get("version", 1) != VERSION:
            raise ValueError(
                f"its version is {found.get('version', 1)!r:.20}, not {VERSION}; "
                "`python weights/convert.py FOLDER` of a checkout converts version 1"
            )
        records = [_record(entry) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = error
        if isinstance(error, KeyError):
            reason = f"the key {error} is missing"
        raise ValueError(
            f"{where} is not a valid catalog of weights: {reason}. Restore it from the "
            "repository, or publish the weights again."
        ) from error
    by_name = {record.name: record for record in records}
    if len(by_name) < len(records):
        raise ValueError(f"{where} is not a valid catalog: it lists a name twice.")
    return by_name


def format_catalog(records: Iterable[WeightsRecord]) -> str:
    """The JSON text of a catalog of these records, sorted by name."""
    entries = [
        dataclasses.asdict(each) for each in sorted(records, key=lambda r: r.name)
    ]
    return json.dumps({"version": VERSION, "weights": entries}, indent=1) + "\n"


def check_record(record: WeightsRecord) -> None:
    """Raises a ValueError that names the field of a record that cannot be kept."""
    try:
        _record(json.loads(json.dumps(dataclasses.asdict(record))))
    except (ValueError, TypeError) as error:
        raise ValueError(f"This cannot be published: {error}.") from error


def _record(entry):
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise ValueError(f"every record needs a name, but one is {entry!r:.80}")
    record = _read(entry, WeightsRecord, f"the record {name!r:.80}")
    # Both are parts of names of files.
    for field, pattern in (("name", NAME), ("sha256", "[0-9a-f]{64}")):
        if not re.fullmatch(pattern, entry[field]):
            raise ValueError(
                f"the field {field!r} of the record {name!r:.80} is "
                f"{entry[field]!r:.80}, which does not match {pattern}"
            )
    if not 1 <= record.bytes < LARGEST_FILE:
        raise ValueError(f"the file of the record {name!r} has {record.bytes} bytes")
    return record


def _read(value, kind, what) -> Any:
    """A value of JSON as a type says, dataclasses of such values included."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict):
            raise ValueError(f"{what} is {value!r:.80}, not a {kind.__name__}")
        if unknown := sorted(value.keys() - hints.keys()):
            raise ValueError(f"{what} has the unknown field {unknown[0]!r:.80}")
        needed = {
            field.name
            for field in dataclasses.fields(kind)
            if field.default is field.default_factory is dataclasses.MISSING
        }
        if missing := sorted(needed - value.keys()):
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
    if not _is_of(value, kind):
        expected = kind.__name__ if isinstance(kind, type) else kind
        raise ValueError(f"{what} is {value!r:.80}, not a {expected}")
    return value


def _is_of(value, kind):
    if kind is Any:
        return True
    if parts := typing.get_args(kind):
        return value is None and type(None) in parts
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return type(value) is kind
