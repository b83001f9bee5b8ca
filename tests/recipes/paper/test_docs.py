"""What the docs show of trained models is what their runs' text files say."""

import json
from pathlib import Path

import pytest

from recipes.paper.runs import Runs

pytestmark = pytest.mark.any_backend

DOCS = Path(__file__).parents[3] / "docs" / "paper"
# Tables 5 and 10 are of shorter runs, which were not kept.
SHOWN = [f"cifar10/{name}" for name in ("comparison", "curves", "table9")]
SHOWN += [f"cifar10/figure{number}" for number in (3, 5, 6)]
SHOWN += [f"digits/figure{number}" for number in (2, 7)]
SHOWN += [f"camvid/{name}" for name in ("table7", "table7_curves")]
PAGES = ("paper", "cifar10", "camvid")


@pytest.mark.parametrize("shown", SHOWN)
def test_the_docs_show_what_the_runs_say(shown):
    result = json.loads((DOCS / f"{shown}.json").read_text())
    runs = Runs(DOCS / "runs", result["dataset"], {})
    for row in result["rows"]:
        assert row["seeds"]
        for seed, values in row["seeds"].items():
            found = runs.values(row["model"], row["size"], int(seed), values)
            assert found == values
    in_page = (DOCS / f"{shown}.md").read_text().strip()
    pages = [(DOCS.parent / f"{page}.md").read_text() for page in PAGES]
    assert shown.endswith("curves") or any(in_page in page for page in pages)
