import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from keras_cbvit.pretrained import cache, network
from keras_cbvit.pretrained.cache import download, sha256
from tests.pretrained.places import FILE, FILENAME, raw_server, record, server

pytestmark = pytest.mark.any_backend

RECORD = record()
PATH = f"/{FILENAME}"


def cached():
    """The contents of all files of the cache but locks, which are empty."""
    folder = cache.folder()
    files = folder.iterdir() if folder.exists() else ()
    return [file.read_bytes() for file in files if file.suffix != ".lock"]


def test_sha256_is_the_known_one(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


# Downloads.


def test_the_cache_is_in_the_folder_of_keras(keras_home, tmp_path, monkeypatch):
    assert cache.folder() == keras_home / "keras_cbvit"
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".keras" / "keras_cbvit"


def test_a_damaged_file_in_the_cache_is_replaced():
    with server({PATH: [FILE]}) as (url, asked):
        download(url + PATH, RECORD).write_bytes(b"damaged")
        assert download(url + PATH, RECORD).read_bytes() == FILE
    assert cached() == [FILE]
    assert len(asked) == 2


def test_two_versions_of_a_record_do_not_meet_in_the_cache():
    newer = record(content=b"newer")
    with server({PATH: [FILE, b"newer"]}) as (url, asked):
        paths = [download(url + PATH, each) for each in (RECORD, newer, RECORD)]
    assert [path.read_bytes() for path in paths] == [FILE, b"newer", FILE]
    assert len(asked) == 2


@pytest.mark.parametrize("wrong", [b"", FILE[:-1], b"<html>Busy</html>"])
def test_a_wrong_answer_is_downloaded_once_more(wrong):
    with server({PATH: [wrong, FILE]}) as (url, asked):
        assert download(url + PATH, RECORD).read_bytes() == FILE
    assert len(asked) == 2
    assert cached() == [FILE]


def test_a_server_that_stays_wrong_is_an_error_and_leaves_no_file():
    with server({PATH: [b"wrong"]}) as (url, asked):
        with pytest.raises(OSError, match=r"was downloaded twice and does not match"):
            download(url + PATH, RECORD)
        assert len(asked) == 2
        download(url + PATH, record(content=b"wrong")).unlink()
        with pytest.raises(OSError, match="downloaded twice"):
            download(url + PATH, RECORD)
    assert cached() == []


def test_a_damaged_file_is_not_given_out():
    with server({PATH: [FILE, b"wrong"]}) as (url, _):
        download(url + PATH, RECORD).write_bytes(b"damaged")
        for _ in range(2):
            with pytest.raises(OSError, match="downloaded twice"):
                download(url + PATH, RECORD)


def test_no_more_is_downloaded_than_the_record_says(keras_home, monkeypatch):
    sizes = []
    head = b"HTTP/1.1 200 OK\r\n\r\n"

    def counted(*arguments):
        sizes.append(0)
        for chunk in real(*arguments):
            sizes[-1] += len(chunk)
            yield chunk

    real = network.chunks
    monkeypatch.setattr(network, "chunks", counted)
    with raw_server(head + FILE + bytes(50 << 20)) as url:
        message = f"it has more bytes, not {len(FILE)}"
        with pytest.raises(OSError, match=message):
            download(url, RECORD)
    assert sizes == [len(FILE) + 1] * 2
    assert cached() == []


def test_what_a_killed_download_left_is_removed_by_the_next_one():
    with server({PATH: [FILE]}) as (url, _):
        child = os.fork()
        if not child:
            network.chunks = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            try:
                download(url + PATH, RECORD)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert cached() == [b""]
        download(url + PATH, RECORD)
    assert cached() == [FILE]


def test_an_answer_cut_short_is_downloaded_once_more():
    class Cut(bytes):
        def __len__(self):  # what the server promises
            return len(FILE) + 10

    with server({PATH: [Cut(FILE), FILE]}) as (url, _):
        assert download(url + PATH, RECORD).read_bytes() == FILE


def test_a_file_that_is_not_on_the_server_is_an_error_and_leaves_none():
    with (
        server({}) as (url, _),
        pytest.raises(OSError, match=r"cannot be downloaded.*404"),
    ):
        download(url + PATH, RECORD)
    with pytest.raises(OSError, match=f"{url}{PATH} cannot be downloaded"):
        download(url + PATH, RECORD)  # no server any more
    assert cached() == []


@pytest.mark.parametrize("damaged", [False, True])
def test_of_all_who_download_at_once_one_does_and_all_get_the_file(damaged):
    number = 8
    start = threading.Barrier(number)
    large = FILE * 100_000
    wanted = record(content=large)

    def get(url):
        start.wait()
        return download(url, wanted).read_bytes()

    with server({PATH: [large]}) as (url, asked), ThreadPoolExecutor(number) as pool:
        if damaged:
            download(url + PATH, wanted).write_bytes(b"damaged")
        found = list(pool.map(get, [url + PATH] * number))
    assert all(content == large for content in found)
    assert len(asked) == 1 + damaged
    assert cached() == [large]


def test_a_file_that_another_process_just_repaired_is_taken_as_it_is(monkeypatch):
    real_sha256 = cache.sha256

    def repaired_once_seen(file):
        found = real_sha256(file)
        path.write_bytes(FILE)
        return found

    with server({PATH: [FILE]}) as (url, asked):
        path = download(url + PATH, RECORD)
        path.write_bytes(b"damaged")
        monkeypatch.setattr(cache, "sha256", repaired_once_seen)
        download(url + PATH, RECORD)
    assert len(asked) == 1
