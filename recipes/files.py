"""Files that are written as a whole or not at all, and JSON that is read with care."""

import contextlib
import json
import os
import reprlib
import stat

from keras_cbvit.files import describe_errors, write

LARGEST_JSON = 16 << 20  # bytes; a run of 20,000 classes takes 2 MB


def append(path, content):
    """Adds bytes to the end of a file, all of them or none.

    Raises:
        OSError: if they cannot be written, with what is missing if that is space.
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


def write_object(path, found):
    """Writes a JSON file of a dict; see `write`."""
    write(path, json.dumps(found, indent=2).encode() + b"\n")


def read_object(path):
    """What a JSON file holds, as a dict.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is not a regular file, is too large, or is not JSON of an
            object in UTF-8.
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
    """Raises a ValueError unless a value from a JSON file has a form.

    Args:
        value: what was read.
        form: a type, or several in a tuple; a dict of the forms of some keys that
            there must be; a list of the form of all elements, or of one for each.
        name: what the message calls the value.
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
