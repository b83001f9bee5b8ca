import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from recipes import figures

pytestmark = pytest.mark.any_backend


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Calls a function that draws; gives the axes, once the file is a picture."""
    made = []
    make = figures.new_figure

    def keep(*size):
        made.append(make(*size))
        return made[-1]

    def draw(function, *arguments, **options):
        file = tmp_path / "picture.png"
        function(*arguments, file=file, **options)
        with Image.open(file) as image:
            assert len(image.getcolors(1 << 24)) > 20
        return made[-1].axes

    monkeypatch.setattr(figures, "new_figure", keep)
    return draw


def test_curves_have_mean_and_spread_of_the_seeds(drawn):
    values = [[1.0, 2.0, 7.0], [3.0, 2.0, 3.0], [5.0, 2.0, 5.0]]
    curves = {"plain": values, "CB": [[0.0, np.nan, 1.0]]}
    (axis,) = drawn(figures.draw_panels, {"entropy (nats)": curves})
    plain, cb = axis.lines
    np.testing.assert_allclose(plain.get_ydata(), [3, 2, 5])
    np.testing.assert_array_equal(plain.get_xdata(), [0, 1, 2])
    np.testing.assert_array_equal(cb.get_ydata(), [0, np.nan, 1])
    # Standard deviations of 2, 0 and 2, of the three seeds alone.
    (band,) = axis.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
    assert {(0, 1), (0, 5), (1, 2), (2, 3), (2, 7)} == corners
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("block", "entropy (nats)")
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert legend == ["plain (3 seeds)", "CB"]


def test_lines_differ_by_more_than_their_color_and_alike_in_every_panel(drawn):
    first = {f"model {i}": [[i, i]] for i in range(5)}
    second = {"model 3": [[0, 1]]}
    axes = drawn(figures.draw_panels, {"a": first, "b": second})
    looks = [
        (line.get_color(), str(line._dash_pattern), line.get_marker())
        for line in axes[0].lines
    ]
    for kind in zip(*looks, strict=True):
        assert len(set(kind)) == 5
    (again,) = axes[1].lines
    assert (again.get_color(), again.get_marker()) == (looks[3][0], looks[3][2])


def test_the_softmax_is_steepest_at_uniform_attention(drawn):
    axes = drawn(figures.draw_softmax_jacobian, tokens=10)
    *families, star = axes[1].lines
    assert (star.get_xdata(), star.get_ydata()) == (np.log(10), 1 - 1 / 10)
    assert len(families) == 3
    for line in families:
        entropy, norm = line.get_xdata(), line.get_ydata()
        np.testing.assert_allclose([entropy[0], norm[0]], [np.log(10), 0.9], rtol=1e-6)
        assert np.all(np.diff(norm) < 1e-6) and np.all(np.diff(entropy) < 1e-6)
    # Four tokens alike.
    np.testing.assert_allclose(
        [families[2].get_xdata()[-1], families[2].get_ydata()[-1]], [np.log(4), 0.75]
    )


def test_attention_lights_the_photograph(drawn):
    photo = np.full((4, 6, 3), 200, "uint8")
    # A class token and 2x3 patches: it attends to the last, half by half with itself.
    row = np.eye(7)[6] / 2 + np.eye(7)[0] / 2
    sharp = np.tile(row, (1, 2, 7, 1))
    uniform = np.full((1, 2, 7, 7), 1 / 7)
    rows = {
        "plain": (photo, [uniform, sharp], (2, 3)),
        "CB": (photo, [sharp, sharp], (2, 3)),
    }
    axes = drawn(figures.draw_attention, rows)
    original, first, second, *of_cb = axes
    assert len(of_cb) == 3
    np.testing.assert_array_equal(original.images[0].get_array(), photo)
    np.testing.assert_array_equal(first.images[0].get_array(), photo)
    expected = np.full((4, 6, 3), 30)
    expected[2:, 4:] = 200
    np.testing.assert_array_equal(second.images[0].get_array(), expected)
    titles = [axis.get_title().splitlines() for axis in axes]
    assert titles[:4] == [
        ["plain", "uniform: 1.95 nats"],  # ln 7
        ["block 0", "1.95 nats"],
        ["block 1", "0.69 nats"],  # ln 2
        ["CB", "uniform: 1.95 nats"],
    ]


def test_the_blocks_of_attention_can_be_chosen(drawn):
    maps = [np.full((1, 1, 5, 5), 1 / 5)] * 12
    rows = {"plain": (np.zeros((2, 2, 3), "uint8"), maps, (2, 2))}

    def blocks(**options):
        axes = drawn(figures.draw_attention, rows, **options)
        return [axis.get_title().splitlines()[0] for axis in axes[1:]]

    assert blocks() == [f"block {i}" for i in (0, 2, 4, 7, 9, 11)]
    assert blocks(blocks=[1, 10]) == ["block 1", "block 10"]


def test_the_boxes_of_scales_are_between_quantiles(drawn):
    scales = {
        "block_0/mlp/context_broadcast": np.arange(11.0),
        "block_1/mlp/context_broadcast": -np.arange(11.0),
    }
    (axis,) = drawn(figures.draw_scales, {"CB_S": scales})
    for patch, (low, high) in zip(axis.patches, [(1, 9), (-9, -1)], strict=True):
        heights = patch.get_path().vertices[:, 1]
        assert (heights.min(), heights.max()) == (low, high)
        assert to_hex(patch.get_facecolor()) in figures.COLORS
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert labels == ["block_0/mlp", "block_1/mlp"]


def test_pictures_stand_beside_their_classes_with_a_legend_of_those_seen(drawn):
    truth = np.array([[0, 2], [2, 255]], "uint8")
    prediction = np.array([[0, 2], [0, 3]], "uint8")
    photo = np.zeros((2, 2, 3), "uint8")
    names = ("sky", "road", "tree", "car")
    axes = drawn(
        lambda file: figures.draw_segmentations(
            [(photo, truth, prediction)], names, file
        )
    )
    assert [axis.get_title() for axis in axes] == ["image", "truth", "prediction"]
    true, predicted = (axis.images[0].get_array() for axis in axes[1:])
    colors = figures.palette(4)
    np.testing.assert_array_equal(true[0], colors[[0, 2]])
    assert true[1, 1].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(predicted[1], colors[[0, 3]])
    (legend,) = axes[0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["sky", "tree", "car"]


def test_lab_is_that_of_the_standard():
    # sRGB's primaries and middle gray, as published with two decimals.
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [119, 119, 119]])
    expected = [
        [53.24, 80.09, 67.20],
        [87.73, -86.18, 83.18],
        [32.30, 79.19, -107.86],
        [50.03, 0, 0],
    ]
    np.testing.assert_allclose(figures._lab(colors), expected, atol=0.06)


@pytest.mark.parametrize(("classes", "least"), [(11, 45), (150, 15)])
def test_the_palette_tells_classes_apart(classes, least):
    colors = figures.palette(classes)
    assert (colors.shape, colors.dtype) == ((classes, 3), np.uint8)
    lab = figures._lab(np.concatenate([colors, [[255, 255, 255]]]))
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1)
    assert distances[~np.eye(classes + 1, dtype=bool)].min() > least
    np.testing.assert_array_equal(figures.palette(5), colors[:5])


@pytest.mark.parametrize(
    ("names", "titles"),
    [
        (["runs/cb", "vitcb_s.imagenet"], ["cb", "vitcb_s.imagenet"]),
        (["runs/a/model.keras", "runs/b"], ["a", "b"]),
        (["runs/a/seed_0", "runs/b/seed_0"], ["a/seed_0", "b/seed_0"]),
        (["runs/a", "runs/a"], ["runs/a", "runs/a"]),
    ],
)
def test_titles_are_as_short_as_tells_the_models_apart(names, titles):
    assert figures.short_titles(names) == titles
