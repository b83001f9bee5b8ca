import numpy as np
import pytest

from recipes import figures
from recipes.paper import charts
from recipes.paper.models import HEADS
from tests.recipes.paper.test_report import result, row

pytestmark = pytest.mark.any_backend


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn."""
    found = []
    make = figures.new_figure

    def keep(*size):
        found.append(make(*size))
        return found[-1]

    monkeypatch.setattr(figures, "new_figure", keep)
    return found


def top1(*values):
    return {str(seed): {"top1": value} for seed, value in enumerate(values)}


def test_bars_are_the_means_and_every_seed_is_a_point(drawn, tmp_path):
    rows = [row("plain", top1(40.0, 50.0)), row("CB", top1(60.0, 70.0))]
    charts.bars(result(["top1"], rows), tmp_path / "bars.png")
    (axis,) = drawn[0].axes
    points = [line.get_ydata().tolist() for line in axis.lines]
    assert points == [[40, 50], [60, 70]]
    heights = [bar.get_segments()[0][0][1] for bar in axis.collections]
    assert heights == [45, 65]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["plain", "CB"]


def test_curves_are_drawn_from_the_first_epoch(drawn, tmp_path):
    rows = [row("plain", {"0": {"test_loss": [3.0, 2.0]}})]
    charts.along(result(["test_loss"], rows), tmp_path / "curves.png")
    (axis,) = drawn[0].axes
    assert axis.get_xlabel() == "epoch"
    (line,) = axis.lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1, 2], [3, 2])


def test_an_epoch_of_segmentation_says_its_iterations(drawn, tmp_path):
    rows = [row("plain", {"0": {"test_mean_iou": [3.0, 2.0]}})]
    segmented = {"dataset": "camvid", "training": {"evaluation_iterations": 200}}
    curves = result(["test_mean_iou"], rows) | segmented
    charts.along(curves, tmp_path / "curves.png")
    assert drawn[0].axes[0].get_xlabel() == "epoch of 200 iterations"


def test_heads_are_beside_each_other_plain_and_with_cb(drawn, tmp_path):
    rows = [
        row(f"{kind}_{heads}_heads", top1(10.0 * heads + more))
        for heads in HEADS
        for kind, more in (("plain", 0), ("cb", 1))
    ]
    charts.over_heads(result(["top1"], rows), tmp_path / "heads.png")
    (axis,) = drawn[0].axes
    plain, cb = (container.lines[0].get_ydata() for container in axis.containers)
    np.testing.assert_allclose(plain, [10 * heads for heads in HEADS])
    np.testing.assert_allclose(cb, [10 * heads + 1 for heads in HEADS])


def test_costs_are_in_per_cent_of_the_plain_model(drawn, tmp_path):
    rows = [
        row("plain", {}, parameters=1000, macs=2000),
        row("SE", {}, parameters=1100, macs=2000, context=50),
    ]
    charts.costs(result([], rows), tmp_path / "costs.png")
    work, parameters = (axis.lines[0].get_ydata() for axis in drawn[0].axes)
    np.testing.assert_allclose(work, [2.5])
    np.testing.assert_allclose(parameters, [10])
