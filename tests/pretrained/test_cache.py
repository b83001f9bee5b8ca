import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from keras_cbvit.pretrained import files
from keras_cbvit.pretrained.catalog import WeightsRecord
from keras_cbvit.pretrained.files import cache_folder, fetch, locate, sha256
from tests.pretrained.places import (
    FILE,
    FILENAME,
    entry,
    raw_server,
    server,
    write_catalog,
)

RECORD = WeightsRecord(**entry())
PATH = f"/{FILENAME}"


def cached():
    """The contents of all files of the cache."""
    folder = cache_folder()
    return [file.read_bytes() for file in folder.iterdir()] if folder.exists() else []


def test_sha256_is_the_known_one(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


# Paths.


@pytest.mark.parametrize("name", ["a.keras", "a.weights.h5"])
@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_path_is_taken_as_it_is(name, kind, tmp_path):
    (tmp_path / name).touch()
    assert locate(kind(tmp_path / name)) == tmp_path / name


def test_a_path_may_be_relative_or_start_at_home(tmp_path, monkeypatch):
    (tmp_path / "a.keras").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("a.keras").samefile(tmp_path / "a.keras")
    assert locate("~/a.keras") == tmp_path / "a.keras"


def test_a_path_that_leads_nowhere_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.keras': there is no such"):
        locate(tmp_path / "nowhere.keras")
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises(FileNotFoundError, match=r"folder\.keras': there is no such"):
        locate(tmp_path / "folder.keras")


@pytest.mark.parametrize("kind", [str, lambda path: path])
@pytest.mark.parametrize("name", ["a.h5", "a.pth", "a"])
def test_a_path_of_another_kind_of_file_is_refused(name, kind, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"is a path, but not of a \.keras or \.wei"):
        locate(kind(tmp_path / name))


def test_what_is_neither_a_name_nor_a_path_is_refused():
    with pytest.raises(ValueError, match="weights=3 must be None, a name or a path"):
        locate(3)


# Names.


@pytest.mark.parametrize("weights", ["toy", "vitcb_s.toy"])
def test_a_tag_and_a_full_name_lead_to_the_file_beside_the_catalog(weights, own_folder):
    write_catalog(own_folder, entry())
    (own_folder / FILENAME).write_bytes(FILE)
    path = locate(weights, "vitcb_s")
    assert path == own_folder / FILENAME
    assert cached() == []


def test_the_place_of_the_variable_comes_first(own_folder, tmp_path, monkeypatch):
    for folder, content in ((own_folder, b"own"), (tmp_path / "mine", b"mine")):
        write_catalog(folder, entry(content=content))
        record = WeightsRecord(**entry(content=content))
        (folder / record.filename).write_bytes(content)
    assert locate("vitcb_s.toy").read_bytes() == b"own"
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(tmp_path / "mine"))
    assert locate("vitcb_s.toy").read_bytes() == b"mine"


def test_an_unknown_tag_is_refused_with_the_known_names(own_folder):
    message = r"weights='tooy': there are no published weights 'vitcb_s\.tooy'\. "
    with pytest.raises(ValueError, match=message + r"Known weights: none yet\."):
        locate("tooy", "vitcb_s")
    write_catalog(own_folder, entry("vitcb_s.toy"), entry("vit_b.toy"))
    with pytest.raises(ValueError, match=message + r".*: vit_b\.toy, vitcb_s\.toy\."):
        locate("tooy", "vitcb_s")


def test_a_tag_needs_a_model_of_a_known_size(own_folder):
    write_catalog(own_folder, entry())
    message = "weights='toy' is a tag, which needs a model of a known size.*Known weigh"
    with pytest.raises(ValueError, match=message):
        locate("toy", None)


@pytest.mark.parametrize(
    "architecture, model, broadcast",
    [
        ("vitcb_s", "ViTCB_S", "cb"),
        ("vitcbs_ti", "ViTCB_Ti", "cbs"),
        ("vit_b", "ViTCB_B", "None"),
    ],
)
def test_missing_imagenet_weights_are_explained_honestly(
    architecture, model, broadcast, own_folder
):
    write_catalog(own_folder, entry())
    with pytest.raises(ValueError) as error:
        locate("imagenet", architecture)
    message = str(error.value)
    name = f"{architecture}.imagenet"
    for part in (
        f"there are no published weights '{name}'",
        "Known weights: vitcb_s.toy.",
        "Nobody has trained and published ImageNet weights of this model yet",
        f"python -m recipes.train imagenet --model {model} --broadcast {broadcast} ",
        f"--publish {name}",
        "KERAS_CBVIT_WEIGHTS=FOLDER",
    ):
        assert part in message


@pytest.mark.parametrize("name", ["swin_s.imagenet", "vitcb_xl.imagenet"])
def test_no_recipe_is_promised_for_an_architecture_that_is_none(name):
    with pytest.raises(ValueError, match="there are no published weights") as error:
        locate(name)
    assert "recipes" not in str(error.value)


def test_a_file_beside_the_catalog_that_is_not_its_records_is_refused(own_folder):
    write_catalog(own_folder, entry())
    (own_folder / FILENAME).write_bytes(FILE[:-1])
    with pytest.raises(OSError, match=r"vitcb_s\.toy-\w+\.keras is not the file"):
        locate("vitcb_s.toy")


def test_a_file_missing_beside_the_catalog_is_an_error_without_a_url(own_folder):
    write_catalog(own_folder, entry())
    with pytest.raises(FileNotFoundError, match=r"lists vitcb_s\.toy, but .* is miss"):
        locate("vitcb_s.toy")


def test_a_file_missing_beside_the_catalog_is_fetched_from_its_url(
    own_folder, keras_home, tmp_path
):
    (tmp_path / "elsewhere").write_bytes(FILE)
    write_catalog(own_folder, entry(url=(tmp_path / "elsewhere").as_uri()))
    path = locate("vitcb_s.toy")
    assert path.parent == keras_home / "keras_cbvit"
    assert path.read_bytes() == FILE


def test_a_place_on_the_net_gives_catalog_and_file(tmp_path, monkeypatch):
    write_catalog(tmp_path / "mine", entry())
    content = (tmp_path / "mine" / "catalog.json").read_bytes()
    with server({"/w/catalog.json": [content], f"/w{PATH}": [FILE]}) as (url, asked):
        monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", f"{url}/w")
        first, second = locate("vitcb_s.toy"), locate("toy", "vitcb_s")
    assert first == second
    assert first.read_bytes() == FILE
    assert asked.count(f"/w{PATH}") == 1  # the second time it was in the cache


def test_a_place_may_be_a_file_url(tmp_path, monkeypatch):
    write_catalog(tmp_path / "mine", entry())
    (tmp_path / "mine" / FILENAME).write_bytes(FILE)
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", (tmp_path / "mine").as_uri())
    assert locate("vitcb_s.toy").read_bytes() == FILE


# Fetching.


def test_the_cache_is_in_the_folder_of_keras(keras_home, tmp_path, monkeypatch):
    assert cache_folder() == keras_home / "keras_cbvit"
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".keras" / "keras_cbvit"


def test_a_damaged_file_in_the_cache_is_replaced():
    with server({PATH: [FILE]}) as (url, asked):
        fetch(url + PATH, RECORD).write_bytes(b"damaged")
        assert fetch(url + PATH, RECORD).read_bytes() == FILE
    assert cached() == [FILE]
    assert len(asked) == 2


def test_two_versions_of_a_record_do_not_meet_in_the_cache():
    newer = WeightsRecord(**entry(content=b"newer"))
    with server({PATH: [FILE, b"newer"]}) as (url, asked):
        paths = [fetch(url + PATH, record) for record in (RECORD, newer, RECORD)]
    assert [path.read_bytes() for path in paths] == [FILE, b"newer", FILE]
    assert len(asked) == 2


@pytest.mark.parametrize("wrong", [b"", FILE[:-1], b"<html>Busy</html>"])
def test_a_wrong_answer_is_fetched_once_more(wrong):
    with server({PATH: [wrong, FILE]}) as (url, asked):
        assert fetch(url + PATH, RECORD).read_bytes() == FILE
    assert len(asked) == 2
    assert cached() == [FILE]


def test_a_server_that_stays_wrong_is_an_error_and_leaves_no_file():
    with server({PATH: [b"wrong"]}) as (url, asked):
        with pytest.raises(OSError, match=r"was fetched twice and is not the file of"):
            fetch(url + PATH, RECORD)
        assert len(asked) == 2
        fetch(url + PATH, WeightsRecord(**entry(content=b"wrong"))).unlink()
        with pytest.raises(OSError, match="fetched twice"):
            fetch(url + PATH, RECORD)
    assert cached() == []


def test_a_damaged_file_is_not_given_out():
    with server({PATH: [FILE, b"wrong"]}) as (url, _):
        fetch(url + PATH, RECORD).write_bytes(b"damaged")
        for _ in range(2):
            with pytest.raises(OSError, match="fetched twice"):
                fetch(url + PATH, RECORD)


def test_who_fails_leaves_the_file_of_another_process_alone(monkeypatch):
    """The other one fetches it between the two downloads of the one that fails."""
    real_download = files._download

    with server({PATH: [b"wrong", FILE, b"wrong"]}) as (url, asked):

        def download(*arguments):
            monkeypatch.setattr(files, "_download", real_download)
            real_download(*arguments)
            assert fetch(url + PATH, RECORD).read_bytes() == FILE

        monkeypatch.setattr(files, "_download", download)
        with pytest.raises(OSError, match="fetched twice"):
            fetch(url + PATH, RECORD)
    assert len(asked) == 3
    assert cached() == [FILE]


def test_no_more_is_downloaded_than_the_record_says(keras_home, monkeypatch):
    sizes = []
    head = b"HTTP/1.1 200 OK\r\n\r\n"

    def sized_download(url, path):
        real_download(url, path)
        sizes.append(path.stat().st_size)

    real_download = files._download
    monkeypatch.setattr(files, "_download", sized_download)
    with raw_server(head + FILE + bytes(50 << 20)) as url:
        message = f"it has more bytes, not {len(FILE)}"
        with pytest.raises(OSError, match=message):
            fetch(url, RECORD)
    assert sizes == [len(FILE) + 1] * 2
    assert cached() == []


def test_what_a_killed_download_left_is_removed_by_the_next_one():
    with server({PATH: [FILE]}) as (url, _):
        child = os.fork()
        if not child:
            files._download = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            try:
                fetch(url + PATH, RECORD)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert len(cached()) == 2  # a file and its lock
        with files._partial_file(cache_folder()) as in_use:
            fetch(url + PATH, RECORD)
            assert in_use.exists()
    assert cached() == [FILE]


def test_weights_that_were_published_anew_are_found(own_folder, monkeypatch):
    """Between the reading of the catalog and that of the file."""
    old, new = (entry(content=each) for each in (b"old", b"new"))
    write_catalog(own_folder, old)
    real = files._file_of

    def file_of(record, place):
        monkeypatch.setattr(files, "_file_of", real)
        write_catalog(own_folder, new)
        (own_folder / WeightsRecord(**new).filename).write_bytes(b"new")
        return real(record, place)

    monkeypatch.setattr(files, "_file_of", file_of)
    assert locate("vitcb_s.toy").read_bytes() == b"new"


def test_cached_and_bundled_weights_load_without_a_network(
    own_folder, tmp_path, monkeypatch
):
    write_catalog(own_folder, entry("vit_b.toy", b"own"))
    own = own_folder / WeightsRecord(**entry("vit_b.toy", b"own")).filename
    own.write_bytes(b"own")
    write_catalog(tmp_path / "mine", entry())
    content = (tmp_path / "mine" / "catalog.json").read_bytes()
    with server({"/catalog.json": [content], PATH: [FILE]}) as (url, _):
        monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", url)
        cached_path = locate("vitcb_s.toy")
    with pytest.warns(UserWarning, match="cannot be fetched"):
        assert locate("vitcb_s.toy") == cached_path
    with pytest.warns(UserWarning, match="cannot be fetched"):
        assert locate("vit_b.toy") == own
    with (
        pytest.warns(UserWarning, match="cannot be fetched"),
        pytest.raises(ValueError, match="no published weights 'vit_s.toy'. Known"),
    ):
        locate("vit_s.toy")


def test_an_answer_cut_short_is_fetched_once_more():
    class Cut(bytes):
        def __len__(self):  # what the server promises
            return len(FILE) + 10

    with server({PATH: [Cut(FILE), FILE]}) as (url, _):
        assert fetch(url + PATH, RECORD).read_bytes() == FILE


def test_a_file_that_is_not_on_the_server_is_an_error_and_leaves_none():
    with (
        server({}) as (url, _),
        pytest.raises(OSError, match=r"cannot be fetched.*404"),
    ):
        fetch(url + PATH, RECORD)
    with pytest.raises(OSError, match=f"{url}{PATH} cannot be fetched"):
        fetch(url + PATH, RECORD)  # no server any more
    assert cached() == []


@pytest.mark.parametrize("damaged", [False, True])
def test_all_who_fetch_at_once_get_the_file(damaged):
    number = 8
    start = threading.Barrier(number)
    large = FILE * 100_000
    record = WeightsRecord(**entry(content=large))

    def get(url):
        start.wait()
        return fetch(url, record).read_bytes()

    with server({PATH: [large]}) as (url, _), ThreadPoolExecutor(number) as pool:
        if damaged:
            fetch(url + PATH, record).write_bytes(b"damaged")
        found = list(pool.map(get, [url + PATH] * number))
    assert all(content == large for content in found)
    assert cached() == [large]


def test_a_file_that_another_process_just_repaired_is_not_taken_from_it(monkeypatch):
    real_sha256, real_download = files.sha256, files._download
    there_while_fetching = []

    def repaired_once_seen(file):
        found = real_sha256(file)
        if file == path:
            path.write_bytes(FILE)
        return found

    def download(*arguments):
        there_while_fetching.append(path.exists())
        real_download(*arguments)

    with server({PATH: [FILE]}) as (url, _):
        path = fetch(url + PATH, RECORD)
        path.write_bytes(b"damaged")
        monkeypatch.setattr(files, "sha256", repaired_once_seen)
        monkeypatch.setattr(files, "_download", download)
        fetch(url + PATH, RECORD)
    assert there_while_fetching == [True]
