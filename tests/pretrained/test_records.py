import dataclasses
import json
import os
import re

import pytest

from keras_cbvit import list_weights
from keras_cbvit.pretrained import catalog
from keras_cbvit.pretrained.catalog import (
    WeightsRecord,
    format_catalog,
    own_folder,
    parse_catalog,
    read_catalog,
)
from tests.pretrained.places import entry, raw_server, server, write_catalog


def test_a_catalog_gives_its_records_by_name():
    text = json.dumps({"weights": [entry("a.b"), entry("c.d", url="file:///x")]})
    records = parse_catalog(text, "here")
    assert list(records) == ["a.b", "c.d"]
    assert dataclasses.asdict(records["a.b"]) == {**entry("a.b"), "url": None}
    assert records["c.d"].url == "file:///x"
    digest = records["a.b"].sha256[:12]
    assert records["a.b"].filename == f"a.b-{digest}.keras"
    assert records["a.b"].stem == f"a.b-{digest}"


def test_a_catalog_is_written_sorted_and_reads_back():
    records = [WeightsRecord(**entry(name)) for name in ("c.d", "a.b")]
    text = format_catalog(records)
    assert list(parse_catalog(text, "here").values()) == records[::-1]


def without(field):
    return {key: value for key, value in entry().items() if key != field}


@pytest.mark.parametrize(
    "content, reason",
    [
        ("", "Expecting value"),
        ("not JSON", "Expecting value"),
        ('{"weights": [', "Expecting value"),
        (b"\xff\xfe\x00", "decode"),
        ("{}", "the key 'weights' is missing"),
        ("[]", "list indices must be integers"),
        ('{"weights": null}', "'NoneType' object is not iterable"),
        ('{"weights": [3]}', "every record needs a name, but one is 3"),
        ('{"weights": {"vitcb_s.toy": {}}}', "every record needs a name"),
        ([without("name")], "every record needs a name, but one is {'sha256'"),
        ([without("sha256")], "record 'vitcb_s.toy' has no field 'sha256'"),
        ([entry(size=3)], "record 'vitcb_s.toy' has the unknown field 'size'"),
        ([entry(bytes="3")], "field 'bytes' of the record 'vitcb_s.toy' is '3', not a"),
        ([entry(bytes=True)], "field 'bytes' .* is True, not a int"),
        ([entry(value="0.5")], "field 'value' .* is '0.5', not a float"),
        ([entry(value=float("nan"))], "field 'value' .* is nan, not a float"),
        ([entry(date=2026)], "field 'date' .* is 2026, not a str"),
        ([entry(input_shape=[8, 8.5, 3])], "field 'input_shape' .* not a list"),
        ([entry(input_shape=[None, "8", 3])], "field 'input_shape' .* not a list"),
        ([entry(class_names=["cat", 1])], "field 'class_names' .* not a list"),
        ([entry("../../x.y")], "field 'name' .*which does not match"),
        ([entry("a.b\n")], "field 'name' .*which does not match"),
        ([entry(sha256="../../../../..")], "field 'sha256' .*which does not match"),
        ([entry(value=-(10**400))], "field 'value' .* not a float"),
        ([entry(bytes=10**30)], "file of the record 'vitcb_s.toy' has 1000"),
        ([entry(bytes=-1)], "file of the record 'vitcb_s.toy' has -1 bytes"),
        ("[" * 100_000, "recursion"),
        ([entry(url=3)], "field 'url' .* is 3, not a"),
        ([entry("a.b"), entry("a.b")], "lists a name twice"),
    ],
)
def test_a_catalog_that_is_not_valid_is_refused_with_the_reason(content, reason):
    if isinstance(content, list):
        content = json.dumps({"weights": content})
    with pytest.raises(ValueError, match=f"here is not a valid catalog.*{reason}"):
        parse_catalog(content, "here")


def test_a_measured_value_may_be_a_whole_number():
    text = json.dumps({"weights": [entry(value=1)]})
    assert parse_catalog(text, "here")["vitcb_s.toy"].value == 1


# Places.


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
    assert read_catalog(tmp_path) == {}


def test_a_folder_that_does_not_exist_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere; set KERAS_CBV"):
        list_weights()


def test_a_url_that_cannot_be_read_is_an_error():
    with server({}) as (url, _), pytest.raises(OSError, match=r"catalog\.json cannot"):
        read_catalog(url)
    with pytest.raises(OSError, match=rf"{url}/catalog\.json cannot be fetched"):
        read_catalog(url)  # the server has stopped


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
        read_catalog(url)
    assert len(str(error.value)) < 500


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
def test_an_answer_that_is_no_catalog_is_an_error_that_names_the_address(answer):
    with (
        raw_server(answer) as url,
        pytest.raises((OSError, ValueError), match=url) as error,
    ):
        read_catalog(url)
    assert len(str(error.value)) < 800


def test_an_endless_catalog_is_refused(monkeypatch):
    monkeypatch.setattr(catalog, "LARGEST_CATALOG", 1000)
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    with (
        raw_server(head + b" " * 1001) as url,
        pytest.raises(OSError, match=r"has more than 1,000 bytes"),
    ):
        read_catalog(url)
    with raw_server(head + b'{"weights": []}' + b" " * 900) as url:
        assert read_catalog(url) == {}


def test_a_large_catalog_on_the_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "LARGEST_CATALOG", 1000)
    (tmp_path / "catalog.json").write_bytes(b" " * 1001)
    with pytest.raises(ValueError, match=r"catalog\.json has more than 1,000 bytes"):
        read_catalog(tmp_path)


def test_a_pipe_in_the_place_of_a_catalog_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "catalog.json")
    with pytest.raises(ValueError, match=r"catalog\.json is not a regular file"):
        read_catalog(tmp_path)


# Without a network.


def test_what_is_on_this_machine_is_known_without_a_network(
    own_folder, tmp_path, monkeypatch
):
    write_catalog(own_folder, entry("vit_b.toy"))
    write_catalog(tmp_path / "mine", entry("vitcb_s.toy"))
    content = (tmp_path / "mine" / "catalog.json").read_bytes()
    with server({"/catalog.json": [content, b"<html>Log in</html>"]}) as (url, _):
        monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", url + "/other")
        with pytest.warns(UserWarning, match=r"404.*only the package's own"):
            assert list_weights() == ["vit_b.toy"]
        monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", url)
        assert list_weights() == ["vit_b.toy", "vitcb_s.toy"]
        with pytest.warns(
            UserWarning, match=rf"{url}.* is not a valid .* before.*used"
        ):
            assert list_weights() == ["vit_b.toy", "vitcb_s.toy"]
    with pytest.warns(UserWarning, match=rf"{url}.* cannot be fetched .* before.*used"):
        assert list_weights() == ["vit_b.toy", "vitcb_s.toy"]


def test_a_home_that_cannot_be_written_to_is_only_warned_of(tmp_path, monkeypatch):
    write_catalog(tmp_path / "mine", entry())
    content = (tmp_path / "mine" / "catalog.json").read_bytes()
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with (
        server({"/catalog.json": [content]}) as (url, _),
        pytest.warns(UserWarning, match="No copy of the catalog is kept"),
    ):
        assert list(read_catalog(url)) == ["vitcb_s.toy"]


def test_the_error_of_a_bad_catalog_says_where_it_is(own_folder):
    (own_folder / "catalog.json").write_text("{}")
    with pytest.raises(ValueError, match=f"{own_folder}/catalog.json is not a valid"):
        list_weights()


def test_the_own_folder_is_the_packages_if_installed_else_the_checkouts(
    tmp_path, monkeypatch
):
    package = tmp_path / "site" / "keras_cbvit"
    file = package / "pretrained" / "catalog.py"
    monkeypatch.setattr(catalog, "__file__", str(file))
    assert own_folder() == tmp_path / "site" / "weights"
    (package / "weights").mkdir(parents=True)
    assert own_folder() == package / "weights"
