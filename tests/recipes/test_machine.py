"""How many cores a container may use, by the files that Linux keeps of it."""

import pytest

from recipes.machine import quota

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000\n", None),
        ("400000 100000\n", 4),
        ("250000 100000\n", 3),
        ("1000 100000\n", 1),
    ],
)
def test_the_quota_of_version_2(tmp_path, text, expected):
    (tmp_path / "cpu.max").write_text(text)
    assert quota(tmp_path) == expected


@pytest.mark.parametrize(("time", "expected"), [("-1\n", None), ("150000\n", 2)])
def test_the_quota_of_version_1(tmp_path, time, expected):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(time)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert quota(tmp_path) == expected


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert quota(tmp_path) is None
