import dataclasses
import os

import pytest

from keras_cbvit.pretrained import records as records_module
from keras_cbvit.pretrained.records import (
    Evaluation,
    Preprocessing,
    check_record,
    format_catalog,
    parse_catalog,
    read_catalog_file,
)
from tests.pretrained.places import catalog_text, entry, evaluation, record, records

pytestmark = pytest.mark.any_backend


def test_a_catalog_gives_its_records_by_name():
    found = records(entry("a.b"), entry("c.d", url="file:///x"))
    assert list(found) == ["a.b", "c.d"]
    assert dataclasses.asdict(found["a.b"]) == {**entry("a.b"), "url": None}
    assert found["c.d"].url == "file:///x"
    digest = found["a.b"].sha256[:12]
    assert found["a.b"].filename == f"a.b-{digest}.keras"
    assert found["a.b"].stem == f"a.b-{digest}"


def test_what_is_in_a_record_is_of_its_type():
    found = record()
    assert found.evaluations == [Evaluation(**evaluation())]
    assert found.preprocessing == Preprocessing(**entry()["preprocessing"])
    # What has a default may be left out.
    short = {"dataset": "d", "split": "s", "task": "t", "command": "c", "images": 1}
    short["metrics"] = {}
    found = record(preprocessing={}, evaluations=[short])
    assert found.preprocessing == Preprocessing()
    assert found.evaluations == [Evaluation(**short, options={}, notes="")]
    assert record(evaluations=[]).evaluations == []


def test_a_catalog_is_written_sorted_and_reads_back():
    two = [record(name) for name in ("c.d", "a.b")]
    text = format_catalog(two)
    assert list(parse_catalog(text, "here").values()) == two[::-1]


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
        ('{"weights": []}', "its version is 1, not 2; `python weights/convert.py FOL"),
        ('{"version": 3, "weights": []}', "its version is 3, not 2"),
        ('{"version": "2", "weights": []}', "its version is '2', not 2"),
        ("[]", "list indices must be integers"),
        ('{"version": 2, "weights": null}', "'NoneType' object is not iterable"),
        ('{"version": 2, "weights": [3]}', "a record has no name: 3"),
        ('{"version": 2, "weights": {"a.b": {}}}', "a record has no name"),
        ([without("name")], "a record has no name: {'sha256'"),
        ([without("sha256")], "record 'vitcb_s.toy' has no field 'sha256'"),
        ([entry(size=3)], "record 'vitcb_s.toy' has the unknown field 'size'"),
        ([entry(bytes="3")], "field 'bytes' of the record 'vitcb_s.toy' is '3', not a"),
        ([entry(bytes=True)], "field 'bytes' .* is True, not a int"),
        (
            [entry(preprocessing=None)],
            "'preprocessing' .* is None, not a Preprocessing",
        ),
        ([entry(preprocessing={"size": 3})], "has the unknown field 'size'"),
        ([entry(preprocessing={"mean": ["a"]})], "field 'mean' .* is 'a', not a float"),
        (
            [entry(preprocessing={"model_normalizes": 1})],
            "'model_normalizes' .* is 1, not a bool",
        ),
        ([entry(evaluations=None)], "'evaluations' .* is None, not a list"),
        ([entry(evaluations=[3])], "'evaluations' .* is 3, not a Evaluation"),
        ([entry(evaluations=[{}])], "'evaluations' .* has no field 'command'"),
        (
            [entry(evaluations=[evaluation(metrics={"top1": "0.5"})])],
            "field 'metrics' .* is '0.5', not a float",
        ),
        (
            [entry(evaluations=[evaluation(metrics={"top1": float("nan")})])],
            "field 'metrics' .* is nan, not a float",
        ),
        (
            [entry(evaluations=[evaluation(metrics={"top1": -(10**400)})])],
            "field 'metrics' .* not a float",
        ),
        (
            [entry(evaluations=[evaluation(metrics=[0.5])])],
            r"field 'metrics' .* is \[0\.5\], not a dict",
        ),
        (
            [entry(evaluations=[evaluation(images=True)])],
            "field 'images' .* is True, not a int",
        ),
        ([entry(architecture="vit_s")], "field 'architecture' .* not a dict"),
        ([entry(date=2026)], "field 'date' .* is 2026, not a str"),
        ([entry(input_shape=[8, 8.5, 3])], "field 'input_shape' .* 8.5, not a int"),
        ([entry(input_shape=[None, "8", 3])], "field 'input_shape' .* '8', not a int"),
        ([entry(class_names=["cat", 1])], "field 'class_names' .* 1, not a str"),
        ([entry("../../x.y")], "field 'name' .*and does not match"),
        ([entry("a.b\n")], "field 'name' .*and does not match"),
        ([entry(sha256="../../../../..")], "field 'sha256' .*and does not match"),
        ([entry(bytes=10**30)], "file of the record 'vitcb_s.toy' has 1000"),
        ([entry(bytes=-1)], "file of the record 'vitcb_s.toy' has -1 bytes"),
        ("[" * 100_000, "recursion"),
        ([entry(url=3)], "field 'url' .* is 3, not a"),
        ([entry("a.b"), entry("a.b")], "lists a name twice"),
    ],
)
def test_a_catalog_that_is_not_valid_is_refused_with_the_reason(content, reason):
    if isinstance(content, list):
        content = catalog_text(*content)
    with pytest.raises(ValueError, match=f"here is not a valid catalog.*{reason}"):
        parse_catalog(content, "here")


def test_a_measured_value_may_be_a_whole_number():
    found = record(evaluations=[evaluation(metrics={"top1": 1})])
    assert found.evaluations[0].metrics == {"top1": 1}


def test_a_record_is_checked_before_it_is_kept():
    check_record(record())
    for changes, message in (
        (
            {"license": 5},
            "record is not valid: the field 'license' .* is 5, not a str",
        ),
        ({"trained_on": {1, 2}}, "The record is not valid: .* not JSON serializable"),
        ({"bytes": 0}, "The record is not valid: .* has 0 bytes"),
    ):
        with pytest.raises(ValueError, match=message):
            check_record(dataclasses.replace(record(), **changes))


def test_a_large_catalog_on_the_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(records_module, "LARGEST_CATALOG", 1000)
    (tmp_path / "catalog.json").write_bytes(b" " * 1001)
    with pytest.raises(ValueError, match=r"catalog\.json is larger than 1,000 bytes"):
        read_catalog_file(tmp_path / "catalog.json")


def test_a_pipe_in_the_place_of_a_catalog_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "catalog.json")
    with pytest.raises(ValueError, match=r"catalog\.json is not a regular file"):
        read_catalog_file(tmp_path / "catalog.json")
