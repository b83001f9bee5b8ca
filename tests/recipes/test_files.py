import errno
import json
import os

import keras
import numpy as np
import pytest

from recipes.files import InMemory, append, check_form, read_object, write, write_object
from tests.recipes.full_disk import files_in, no_file_over


@pytest.mark.parametrize("add", [write, append])
def test_what_does_not_fit_leaves_the_file_as_it_was(tmp_path, add):
    path = tmp_path / "log.csv"
    add(path, b"before")
    with no_file_over(100), pytest.raises(OSError) as caught:
        add(path, bytes(1000))
    assert str(caught.value) == f"{path} cannot be written (File too large)."
    assert caught.value.errno == errno.EFBIG
    assert files_in(tmp_path) == {"log.csv": b"before"}
    add(path, b", after")
    expected = {write: b", after", append: b"before, after"}[add]
    assert files_in(tmp_path) == {"log.csv": expected}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux alone has it")
def test_a_full_disk_says_how_much_is_needed_and_free(tmp_path):
    (tmp_path / "partial.txt").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        write(tmp_path / "a.txt", bytes(2000))
    assert caught.value.errno == errno.ENOSPC
    begin = f"{tmp_path / 'a.txt'} cannot be written (No space left on device: it takes"
    assert str(caught.value).startswith(f"{begin} 2,000 bytes, ")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"none/a\.txt cannot be written \(No s"
    ):
        write(tmp_path / "none" / "a.txt", b"")


def test_keras_saves_into_memory_what_it_saves_on_disk(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    weights, whole = InMemory("a.weights.h5"), InMemory("a.keras")
    model.save_weights(weights)
    model.save(whole)
    (tmp_path / "a.weights.h5").write_bytes(weights.getbuffer())
    (tmp_path / "a.keras").write_bytes(whole.getbuffer())
    copy = keras.saving.load_model(tmp_path / "a.keras")
    np.testing.assert_array_equal(copy.get_weights()[0], model.get_weights()[0])
    for file in (
        tmp_path / "a.weights.h5",
        InMemory("a.weights.h5", weights.getvalue()),
    ):
        copy.set_weights([np.zeros((3, 2)), np.zeros(2)])
        copy.load_weights(file)
        np.testing.assert_array_equal(copy.get_weights()[0], model.get_weights()[0])


def test_an_object_is_read_as_it_was_written(tmp_path):
    write_object(tmp_path / "a.json", {"é": [1, None]})
    assert read_object(tmp_path / "a.json") == {"é": [1, None]}


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
        (os.mkfifo, "it is no file"),
        (os.mkdir, "it is no file"),
    ],
)
def test_what_is_no_object_is_said_in_short(tmp_path, content, message):
    path = tmp_path / "config.json"
    content(path) if callable(content) else path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_object(path)
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
