import re
from pathlib import Path

import pytest

from keras_cbvit import list_weights
from keras_cbvit.pretrained import network, sources
from keras_cbvit.pretrained.sources import (
    Folder,
    Url,
    find_record,
    known_records,
    locate,
    source_of,
)
from keras_cbvit.pretrained.sources import own_folder as real_own_folder
from tests.pretrained.places import (
    FILE,
    FILENAME,
    catalog_text,
    entry,
    published_file,
    raw_server,
    record,
    server,
    write_catalog,
)

pytestmark = pytest.mark.any_backend

PATH = f"/{FILENAME}"


def path_of(*arguments):
    return locate(*arguments)[0]


# Sources.


def test_a_place_is_a_folder_or_a_url():
    assert isinstance(source_of("weights"), Folder)
    assert str(source_of("~/weights")) == str(Path.home() / "weights")
    assert isinstance(source_of("https://example.org/w/"), Url)
    assert str(source_of("https://example.org/w/")) == "https://example.org/w"
    assert isinstance(source_of("file:///w"), Url)


class Shelf:
    """A source of another kind: no more than this is needed."""

    def __init__(self, folder):
        self.folder = folder

    def records(self):
        return {"vitcb_s.toy": record()}

    def file(self, wanted):
        path = self.folder / wanted.filename
        path.write_bytes(FILE)
        return path


def test_a_source_of_another_kind_is_a_class_and_a_line(
    own_folder, tmp_path, monkeypatch
):
    write_catalog(own_folder, entry("vit_b.toy"))
    places = [Shelf(tmp_path), Folder(own_folder)]
    monkeypatch.setattr(sources, "sources", lambda: places)
    assert list_weights() == ["vit_b.toy", "vitcb_s.toy"]
    assert path_of("toy", "vitcb_s").read_bytes() == FILE
    assert find_record("vitcb_s.toy") == record()
    assert known_records().keys() == {"vit_b.toy", "vitcb_s.toy"}
    with pytest.raises(ValueError, match="no weights 'vit_s.toy' are published"):
        find_record("vit_s.toy")


def test_all_places_weights_are_listed_once_and_sorted(
    own_folder, tmp_path, monkeypatch
):
    assert list_weights() == []
    write_catalog(own_folder, entry("vitcb_s.toy"), entry("vit_b.toy"))
    assert list_weights() == ["vit_b.toy", "vitcb_s.toy"]
    write_catalog(tmp_path / "mine", entry("vitcb_s.toy"), entry("vitcbs_s.toy"))
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(tmp_path / "mine"))
    assert list_weights() == ["vit_b.toy", "vitcb_s.toy", "vitcbs_s.toy"]


def test_a_place_may_be_a_url(tmp_path, monkeypatch):
    write_catalog(tmp_path / "mine", entry())
    content = (tmp_path / "mine" / "catalog.json").read_bytes()
    with server({"/weights/catalog.json": [content]}) as (url, _):
        for end in ("/weights", "/weights/"):
            monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", url + end)
            assert list_weights() == ["vitcb_s.toy"]
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", (tmp_path / "mine").as_uri())
    assert list_weights() == ["vitcb_s.toy"]


def test_a_place_may_start_at_home(tmp_path, monkeypatch):
    write_catalog(tmp_path / "mine", entry())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", "~/mine")
    assert list_weights() == ["vitcb_s.toy"]


def test_a_folder_without_a_catalog_has_no_weights(tmp_path):
    assert Folder(tmp_path).records() == {}


def test_a_folder_that_does_not_exist_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="folder .*nowhere does not exist; set"):
        list_weights()


def test_a_url_that_cannot_be_read_is_warned_of():
    with (
        server({}) as (url, _),
        pytest.warns(UserWarning, match=r"catalog\.json cannot be downloaded .*404"),
    ):
        assert Url(url).records() == {}
    with pytest.warns(UserWarning, match=rf"{url}/catalog\.json cannot be downloaded"):
        assert Url(url).records() == {}  # the server has stopped


@pytest.mark.parametrize(
    "url",
    [
        "http://a b",
        "http://127.0.0.1:abc",
        "http://[::1",
        "http://127.0.0.1/\r\nX: y",
        "http://127.0.0.1:1/ä",
        "http:///x",
        "ftp://127.0.0.1:1/x",
        "://",
    ],
)
def test_an_address_that_makes_no_sense_is_an_os_error_that_names_it(url):
    with pytest.raises(OSError, match=re.escape(url.rstrip("/"))) as error:
        network.read(url, 1000)
    assert len(str(error.value)) < 500
    with pytest.warns(UserWarning, match=re.escape(url.rstrip("/"))):
        assert Url(url).records() == {}


@pytest.mark.parametrize(
    "answer",
    [
        b"not HTTP at all\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\n\r\n",
    ],
)
def test_an_answer_that_is_no_catalog_is_a_warning_that_names_the_address(answer):
    with raw_server(answer) as url, pytest.warns(UserWarning, match=url) as warned:
        assert Url(url).records() == {}
    assert len(str(warned[0].message)) < 900


def test_an_endless_catalog_is_not_read(monkeypatch):
    monkeypatch.setattr(sources, "LARGEST_CATALOG", 1000)
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    with (
        raw_server(head + b" " * 1001) as url,
        pytest.warns(UserWarning, match=r"is larger than 1,000 bytes"),
    ):
        assert Url(url).records() == {}
    with raw_server(head + catalog_text().encode() + b" " * 900) as url:
        assert Url(url).records() == {}


# Without a network.


def test_what_is_on_this_machine_is_known_without_a_network(
    own_folder, tmp_path, monkeypatch
):
    write_catalog(own_folder, entry("vit_b.toy"))
    write_catalog(tmp_path / "mine", entry("vitcb_s.toy"))
    content = (tmp_path / "mine" / "catalog.json").read_bytes()
    with server({"/catalog.json": [content, b"<html>Log in</html>"]}) as (url, _):
        monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", url + "/other")
        with pytest.warns(UserWarning, match=r"404.*weights are not available"):
            assert list_weights() == ["vit_b.toy"]
        monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", url)
        assert list_weights() == ["vit_b.toy", "vitcb_s.toy"]
        with pytest.warns(
            UserWarning, match=rf"{url}.* is not a valid .* Using the last"
        ):
            assert list_weights() == ["vit_b.toy", "vitcb_s.toy"]
    with pytest.warns(
        UserWarning, match=rf"{url}.* cannot be downloaded .* Using the last"
    ):
        assert list_weights() == ["vit_b.toy", "vitcb_s.toy"]


def test_a_home_that_cannot_be_written_to_is_only_warned_of(tmp_path, monkeypatch):
    write_catalog(tmp_path / "mine", entry())
    content = (tmp_path / "mine" / "catalog.json").read_bytes()
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with (
        server({"/catalog.json": [content]}) as (url, _),
        pytest.warns(UserWarning, match="The catalog was not copied"),
    ):
        assert list(Url(url).records()) == ["vitcb_s.toy"]


def test_the_error_of_a_bad_catalog_says_where_it_is(own_folder):
    (own_folder / "catalog.json").write_text("{}")
    with pytest.raises(ValueError, match=f"{own_folder}/catalog.json is not a valid"):
        list_weights()


# `own_folder` is another one to the tests, see conftest.py.
def test_the_own_folder_is_the_packages_if_installed_else_the_checkouts(
    tmp_path, monkeypatch
):
    package = tmp_path / "site" / "keras_cbvit"
    file = package / "pretrained" / "sources.py"
    monkeypatch.setattr(sources, "__file__", str(file))
    assert real_own_folder() == tmp_path / "site" / "weights"
    (package / "weights").mkdir(parents=True)
    assert real_own_folder() == package / "weights"


# What `weights=` names.


@pytest.mark.parametrize("name", ["a.keras", "a.weights.h5"])
@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_path_is_taken_as_it_is(name, kind, tmp_path):
    (tmp_path / name).touch()
    assert locate(kind(tmp_path / name)) == (tmp_path / name, None)


def test_a_path_may_be_relative_or_start_at_home(tmp_path, monkeypatch):
    (tmp_path / "a.keras").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path_of("a.keras").samefile(tmp_path / "a.keras")
    assert path_of("~/a.keras") == tmp_path / "a.keras"


def test_a_path_that_leads_nowhere_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.keras' does not"):
        locate(tmp_path / "nowhere.keras")
    with pytest.raises(FileNotFoundError, match=r"does not exist\.$"):
        locate("runs/nowhere.keras")
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises(FileNotFoundError, match=r"folder\.keras' does not exist"):
        locate(tmp_path / "folder.keras")


@pytest.mark.parametrize("kind", [str, lambda path: path])
@pytest.mark.parametrize("name", ["a.h5", "a.onnx", "a"])
def test_a_path_of_another_kind_of_file_is_refused(name, kind, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(
        ValueError, match=r"is neither a folder nor a file that"
    ) as error:
        locate(kind(tmp_path / name))
    assert "Hugging Face" not in str(error.value)


@pytest.mark.parametrize(
    "weights",
    [
        "google/vit-base-patch16-224",
        "HF://google/vit-base-patch16-224",
        "hf-hub:google/vit-base-patch16-224@main",
        "https://huggingface.co/google/vit-base-patch16-224",
        "https://huggingface.co/google/vit-base-patch16-224/tree/main",
        "https://huggingface.co/google/vit-base-patch16-224/resolve/main/a.bin",
    ],
)
def test_another_way_to_name_a_repository_is_answered_with_its_handle(weights):
    message = (
        "For a Hugging Face repository, use 'hf://google/vit-base-patch16-224'\\.$"
    )
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        locate(weights)


def test_the_path_of_a_folder_or_of_a_state_dict_is_taken_as_it_is(tmp_path):
    for name in ("a.safetensors", "a.pth", "a.pt", "a.bin"):
        (tmp_path / name).touch()
        assert locate(tmp_path / name) == (tmp_path / name, None)
    assert locate(tmp_path) == locate(f"{tmp_path}/") == (tmp_path, None)


@pytest.mark.parametrize("weights", ["toy", "vitcb_s.toy"])
def test_a_tag_and_a_full_name_lead_to_the_file_beside_the_catalog(
    weights, own_folder, keras_home
):
    write_catalog(own_folder, entry())
    (own_folder / FILENAME).write_bytes(FILE)
    assert locate(weights, "vitcb_s") == (own_folder / FILENAME, record())
    assert not (keras_home / "keras_cbvit").exists()


def test_a_tag_takes_the_first_architecture_that_has_weights(own_folder):
    write_catalog(own_folder, entry("vit_s.toy"), entry("vitcbs_s.toy", b"scaled"))
    for name, content in (("vit_s.toy", FILE), ("vitcbs_s.toy", b"scaled")):
        published_file(own_folder, name).write_bytes(content)
    for architectures, name in (
        (("vitcb_s", "vit_s"), "vit_s.toy"),
        (("vitcbs_s", "vit_s"), "vitcbs_s.toy"),
    ):
        path, found = locate("toy", *architectures)
        assert (path.name, found.name) == (found.filename, name)
    with pytest.raises(ValueError, match="no weights 'vitcb_s.toy'"):
        locate("toy", "vitcb_s", "vitcb_ti")


def test_the_place_of_the_variable_comes_first(own_folder, tmp_path, monkeypatch):
    for folder, content in ((own_folder, b"own"), (tmp_path / "mine", b"mine")):
        write_catalog(folder, entry(content=content))
        (folder / record(content=content).filename).write_bytes(content)
    assert path_of("vitcb_s.toy").read_bytes() == b"own"
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(tmp_path / "mine"))
    assert path_of("vitcb_s.toy").read_bytes() == b"mine"


def test_an_unknown_tag_is_refused_with_the_known_names(own_folder):
    message = r"weights='tooy' is unknown: no weights 'vitcb_s\.tooy' are published\. "
    with pytest.raises(ValueError, match=message + r"Known weights: none yet\."):
        locate("tooy", "vitcb_s")
    write_catalog(own_folder, entry("vitcb_s.toy"), entry("vit_b.toy"))
    with pytest.raises(ValueError, match=message + r".*: vit_b\.toy, vitcb_s\.toy\."):
        locate("tooy", "vitcb_s")


def test_a_tag_needs_a_model_of_a_known_size(own_folder):
    write_catalog(own_folder, entry())
    message = "weights='toy' is a tag, which requires a model of a named.*Known weigh"
    with pytest.raises(ValueError, match=message):
        locate("toy")


@pytest.mark.parametrize("architecture", ["vitcb_s", "vitcb_ti"])
def test_missing_imagenet_weights_are_explained_honestly(architecture, own_folder):
    write_catalog(own_folder, entry())
    with pytest.raises(ValueError) as error:
        locate("imagenet", architecture)
    message = str(error.value)
    name = f"{architecture}.imagenet"
    for part in (
        f"no weights '{name}' are published",
        "Known weights: vitcb_s.toy.",
        "ImageNet weights of this model are not published yet",
        "Start from DeiT's with broadcast='cbs'",
        f"keras-cbvit train imagenet_anneal --publish {name}",
        "KERAS_CBVIT_WEIGHTS=FOLDER",
    ):
        assert part in message


@pytest.mark.parametrize(
    "name", ["swin_s.imagenet", "vitcb_xl.imagenet", "upernet_vit_s.imagenet"]
)
def test_no_recipe_is_promised_for_an_architecture_that_is_none(name):
    with pytest.raises(ValueError, match="are published") as error:
        locate(name)
    assert "keras-cbvit" not in str(error.value)


def test_a_file_beside_the_catalog_that_is_not_its_records_is_refused(own_folder):
    write_catalog(own_folder, entry())
    (own_folder / FILENAME).write_bytes(FILE[:-1])
    with pytest.raises(OSError, match=r"vitcb_s\.toy-\w+\.keras does not match"):
        locate("vitcb_s.toy")


def test_a_file_missing_beside_the_catalog_is_an_error_without_a_url(own_folder):
    write_catalog(own_folder, entry())
    with pytest.raises(FileNotFoundError, match=r"lists vitcb_s\.toy, but .* does not"):
        locate("vitcb_s.toy")


def test_a_file_missing_beside_the_catalog_is_downloaded_from_its_url(
    own_folder, keras_home, tmp_path
):
    (tmp_path / "elsewhere").write_bytes(FILE)
    write_catalog(own_folder, entry(url=(tmp_path / "elsewhere").as_uri()))
    path = path_of("vitcb_s.toy")
    assert path.parent == keras_home / "keras_cbvit"
    assert path.read_bytes() == FILE


def test_a_place_on_the_net_gives_catalog_and_file(tmp_path, monkeypatch):
    write_catalog(tmp_path / "mine", entry())
    content = (tmp_path / "mine" / "catalog.json").read_bytes()
    with server({"/w/catalog.json": [content], f"/w{PATH}": [FILE]}) as (url, asked):
        monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", f"{url}/w")
        first, second = path_of("vitcb_s.toy"), path_of("toy", "vitcb_s")
    assert first == second
    assert first.read_bytes() == FILE
    assert asked.count(f"/w{PATH}") == 1  # the second time it was in the cache


def test_a_place_may_be_a_file_url(tmp_path, monkeypatch):
    write_catalog(tmp_path / "mine", entry())
    (tmp_path / "mine" / FILENAME).write_bytes(FILE)
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", (tmp_path / "mine").as_uri())
    assert path_of("vitcb_s.toy").read_bytes() == FILE


def test_weights_that_were_published_anew_are_found(own_folder, monkeypatch):
    """Between the reading of the catalog and that of the file."""
    old, new = (entry(content=each) for each in (b"old", b"new"))
    write_catalog(own_folder, old)
    real = Folder.file

    def file(folder, wanted):
        monkeypatch.setattr(Folder, "file", real)
        write_catalog(own_folder, new)
        (own_folder / record(content=b"new").filename).write_bytes(b"new")
        return real(folder, wanted)

    monkeypatch.setattr(Folder, "file", file)
    path, found = locate("vitcb_s.toy")
    assert path.read_bytes() == b"new"
    assert found == record(content=b"new")


def test_cached_and_bundled_weights_load_without_a_network(
    own_folder, tmp_path, monkeypatch
):
    write_catalog(own_folder, entry("vit_b.toy", b"own"))
    own = own_folder / record("vit_b.toy", b"own").filename
    own.write_bytes(b"own")
    write_catalog(tmp_path / "mine", entry())
    content = (tmp_path / "mine" / "catalog.json").read_bytes()
    with server({"/catalog.json": [content], PATH: [FILE]}) as (url, _):
        monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", url)
        cached_path = path_of("vitcb_s.toy")
    with pytest.warns(UserWarning, match="cannot be downloaded"):
        assert path_of("vitcb_s.toy") == cached_path
    with pytest.warns(UserWarning, match="cannot be downloaded"):
        assert path_of("vit_b.toy") == own
    with (
        pytest.warns(UserWarning, match="cannot be downloaded"),
        pytest.raises(ValueError, match="no weights 'vit_s.toy' are published"),
    ):
        locate("vit_s.toy")
