"""Atomic appends, and JSON files with validation."""

import contextlib
import json
import os
import reprlib
import stat

from keras_cbvit.files import describe_errors, write

LARGEST_JSON = 16 << 20  # bytes; a run of 20,000 classes takes 2 MB


def append(path, content):
    """Appends bytes to a file, all of them or none.

    Raises:
        OSError: if the bytes cannot be written; a full disk is reported with the
            required space.
    """
    with describe_errors(path, len(content)):
        size = path.stat().st_size if path.exists() else 0
        try:
            with open(path, "ab") as file:
                file.write(content)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise


def write_json(path, found):
    """Writes a dict to a JSON file; see `write`."""
    write(path, json.dumps(found, indent=2).encode() + b"\n")


def read_json(path):
    """Reads a JSON object from a file, as a dict.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is not a regular file, is too large, or does not contain a
            JSON object in UTF-8.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    if status.st_size > LARGEST_JSON:
        raise ValueError(f"it has {status.st_size:,} bytes")
    with open(path, "rb") as file:
        content = file.read()
    try:
        found = json.loads(content.decode())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    check_form(found, {})
    return found


def check_form(value, form, name="it"):
    """Raises a ValueError unless a value from a JSON file has the expected form.

    Args:
        value: the parsed value.
        form: a type or a tuple of types; a dict from required keys to the forms of
            their values; or a list with one form for all elements, or one per element.
        name: name of the value in the error message.
    """
    if isinstance(form, dict):
        check_form(value, dict, name)
        for key, inner in form.items():
            if key not in value:
                raise ValueError(f"{name} has no {key!r}")
            check_form(value[key], inner, repr(key))
    elif isinstance(form, list):
        check_form(value, list, name)
        if len(form) > 1 and len(value) != len(form):
            raise ValueError(f"{name} has {len(value)} elements, not {len(form)}")
        for element in value:
            check_form(element, form[0], f"an element of {name}")
    elif not isinstance(value, form):
        raise ValueError(f"{name} is {reprlib.repr(value)}")
