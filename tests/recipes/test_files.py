import errno
import json
import os

import pytest

from recipes.files import append, check_form, read_json, write_json
from tests.full_disk import files_in, no_file_over

pytestmark = pytest.mark.any_backend


def test_what_does_not_fit_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "log.csv"
    append(path, b"before")
    with no_file_over(100), pytest.raises(OSError) as caught:
        append(path, bytes(1000))
    assert str(caught.value) == f"{path} cannot be written (File too large)."
    assert caught.value.errno == errno.EFBIG
    assert files_in(tmp_path) == {"log.csv": b"before"}
    append(path, b", after")
    assert files_in(tmp_path) == {"log.csv": b"before, after"}


def test_an_object_is_read_as_it_was_written(tmp_path):
    write_json(tmp_path / "a.json", {"é": [1, None]})
    assert read_json(tmp_path / "a.json") == {"é": [1, None]}


def huge(path):
    with path.open("wb") as file:
        file.truncate(10**9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[]", r"it is \[\]"),
        (b"null", "it is None"),
        (b"\xef\xbb\xbf{}", "BOM"),
        ("{}".encode("utf-16"), "utf-8"),
        (bytes(range(256)), "utf-8"),
        (b'{"a":' * 10**6, "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "5000 digits"),
        (huge, "it has 1,000,000,000 bytes"),
        (os.mkfifo, "it is not a regular file"),
        (os.mkdir, "it is not a regular file"),
    ],
)
def test_what_is_no_object_is_said_in_short(tmp_path, content, message):
    path = tmp_path / "config.json"
    content(path) if callable(content) else path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_json(path)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "it has no 'size'"),
        ('{"size": "1 2", "inner": {"name": "x"}}', "'size' is '1 2'"),
        ('{"size": [1], "inner": {"name": "x"}}', "'size' has 1 elements, not 2"),
        ('{"size": [1, null], "inner": {"name": "x"}}', "an element of 'size' is None"),
        ('{"size": [1, 2], "inner": []}', r"'inner' is \[\]"),
        ('{"size": [1, 2], "inner": {"name": 5}}', "'name' is 5"),
    ],
)
def test_another_form_is_refused(text, message):
    form = {"size": [int, int], "inner": {"name": str}}
    check_form(json.loads('{"size": [1, 2], "inner": {"name": "x"}, "more": 0}'), form)
    with pytest.raises(ValueError, match=message):
        check_form(json.loads(text), form)
