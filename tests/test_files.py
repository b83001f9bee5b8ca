import errno
import os

import keras
import numpy as np
import pytest

from keras_cbvit.files import InMemory, whole_folder, write
from tests.full_disk import files_in, no_file_over

pytestmark = pytest.mark.any_backend


def test_what_does_not_fit_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "log.csv"
    write(path, b"before")
    with no_file_over(100), pytest.raises(OSError) as caught:
        write(path, bytes(1000))
    assert str(caught.value) == f"{path} cannot be written (File too large)."
    assert caught.value.errno == errno.EFBIG
    assert files_in(tmp_path) == {"log.csv": b"before"}
    write(path, b"after")
    assert files_in(tmp_path) == {"log.csv": b"after"}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux alone has it")
def test_a_full_disk_says_how_much_is_needed_and_free(tmp_path):
    (tmp_path / "partial.a.txt").symlink_to("/dev/full")
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


def test_a_folder_is_there_with_all_that_was_written_or_not_at_all(tmp_path):
    folder = tmp_path / "new" / "export"
    with pytest.raises(KeyError), whole_folder(folder) as partial:
        (partial / "a.txt").write_text("a")
        assert not folder.exists()
        raise KeyError
    assert not [*folder.parent.iterdir()]
    with whole_folder(folder) as partial:
        (partial / "a.txt").write_text("a")
    assert [*folder.parent.iterdir()] == [folder]
    assert (folder / "a.txt").read_text() == "a"
    with pytest.raises(FileExistsError, match="use a folder"), whole_folder(folder):
        pass


def test_the_working_folder_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    for folder in (".", "../a"):
        with (
            pytest.raises(FileExistsError, match=r"is the current directory; use"),
            whole_folder(folder),
        ):
            pass
    with whole_folder("../b/c/.."):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


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
