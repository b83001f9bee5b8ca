import numpy as np
import pytest

from recipes.paper.report import markdown, mean_and_spread, over_baseline
from tests.recipes.printed import without_padding

pytestmark = pytest.mark.any_backend


def row(
    title,
    seeds,
    size="mini",
    parameters=1000,
    macs=2_000_000,
    context=0,
    baseline="plain",
):
    return {
        "title": title,
        "model": title,
        "baseline": baseline,
        "size": size,
        "parameters": parameters,
        "macs": macs,
        "context_macs": context,
        "seeds": seeds,
    }


def result(measures, rows, stated=""):
    return {
        "entry": "table0",
        "title": "Table 0: of nothing",
        "stated": stated,
        "dataset": "digits",
        "measures": measures,
        "rows": rows,
        "training": {"epochs": 7, "global_batch_size": 32},
        "data": {"image_size": [16, 16]},
        "smoke": False,
        "backend": "torch",
        "versions": {"keras": "3.99"},
        "cpu": "Abacus",
        "cores": 2,
        "date": "2026-01-02",
    }


def cells(text):
    """The cells of each row of the tables, by the first one."""
    found = {}
    for line in text.splitlines():
        if line.startswith("| "):
            title, *rest = (cell.strip() for cell in line.strip("|").split("|"))
            found.setdefault(title, rest)
    return found


def test_spread_is_the_standard_deviation_of_a_sample():
    mean, spread = mean_and_spread([[1.0, 5.0], [2.0, 5.0], [3.0, 8.0]])
    np.testing.assert_allclose(mean, [2, 6])
    np.testing.assert_allclose(spread, [1, np.sqrt(3)])
    np.testing.assert_equal(mean_and_spread([4.0]), (4, np.nan))


def test_differences_are_of_the_same_seed_and_size():
    rows = [
        row("plain", {"0": {"top1": 50.0}, "1": {"top1": 60.0}}),
        row("CB", {"0": {"top1": 51.0}, "1": {"top1": 63.0}}),
        row("plain", {"0": {"top1": 10.0}, "1": {"top1": 10.0}}, size="ti"),
        row("CB", {"0": {"top1": 12.0}, "1": {"top1": 9.0}}, size="ti"),
    ]
    assert over_baseline(rows, rows[1], "top1") == [1, 3]
    assert over_baseline(rows, rows[3], "top1") == [2, -1]
    printed = markdown(result(["top1"], rows, stated="CB +0.5"))
    table = cells(printed)
    assert table["plain"] == ["mini", "1,000", "2.00 M", "55.00 ± 7.07", "–"]
    assert table["CB"][3:] == ["57.00 ± 8.49", "+2.00 ± 1.41"]
    assert "The paper, on ImageNet: CB +0.5." in printed
    assert (
        "over the seeds 0, 1; differences are between runs of the same seed. 7 epochs"
        in printed
    )
    assert "torch; keras 3.99; Abacus, 2 cores; 2026-01-02." in printed


def test_what_is_measured_by_block_has_a_column_for_each():
    values = {"0": {"entropy": [1.0, 2.0]}, "1": {"entropy": [3.0, 2.0]}}
    table = cells(markdown(result(["entropy"], [row("plain", values)])))
    assert table["plain, mini"] == ["2.0000 ± 1.4142", "2.0000 ± 0.0000"]


@pytest.mark.parametrize(
    "measure, header",
    [("entropy", "| Model | 0 | 1 |"), ("test_loss", "| Model | 1 | 2 |")],
)
def test_blocks_are_counted_from_0_and_epochs_from_1(measure, header):
    rows = [row("plain", {"0": {measure: [1.0, 2.0]}})]
    printed = without_padding(markdown(result([measure], rows)))
    assert header in printed.splitlines()


def test_costs_are_over_the_baseline_of_the_same_size():
    rows = [row("plain", {}), row("CB", {}, context=5_000)]
    table = cells(markdown(result([], rows)))
    assert table["CB"] == ["mini", "1,000", "2.00 M", "0.01 M", "+0.250%"]


@pytest.mark.parametrize(
    "measures, found", [(["top1"], "| 5.00 |"), (["entropy"], "| 5.0000 |")]
)
def test_a_single_seed_has_no_spread(measures, found):
    value = {"top1": 5.0, "entropy": [5.0]}
    text = markdown(result(measures, [row("plain", {"3": value})]))
    assert found in without_padding(text)


def test_a_row_may_be_compared_with_another_than_the_first():
    def top1(value):
        return {"0": {"top1": value}}

    rows = [
        row("plain 1", top1(10.0), baseline="plain 1"),
        row("CB 1", top1(13.0), baseline="plain 1"),
        row("plain 2", top1(20.0), baseline="plain 2"),
        row("CB 2", top1(21.0), baseline="plain 2"),
    ]
    text = markdown(result(["top1"], rows))
    assert "over the row before, points" in text
    table = cells(text)
    assert [table[name][-1] for name in table if "CB" in name] == ["+3.00", "+1.00"]
    assert table["plain 2"][-1] == "–"


def test_a_smoke_run_says_so():
    smoke = {**result(["top1"], [row("plain", {"0": {"top1": 5.0}})]), "smoke": True}
    assert "A smoke run on a few images" in markdown(smoke)
