import dataclasses
import json

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
from tests.pretrained.places import entry, server, write_catalog


def test_a_catalog_gives_its_records_by_name():
    text = json.dumps({"weights": [entry("a.b"), entry("c.d", url="file:///x")]})
    records = parse_catalog(text, "here")
    assert list(records) == ["a.b", "c.d"]
    assert dataclasses.asdict(records["a.b"]) == {**entry("a.b"), "url": None}
    assert records["c.d"].url == "file:///x"
    assert records["a.b"].filename == "a.b.keras"


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
    with pytest.raises(OSError, match=rf"{url}/catalog\.json cannot be read"):
        read_catalog(url)  # nobody is there any more


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
