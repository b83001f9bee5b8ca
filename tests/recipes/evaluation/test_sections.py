import base64
import io

import numpy as np
import pytest
from PIL import Image

from keras_cbvit.pretrained import imagenet
from recipes.data.images import Split
from recipes.data.segmentation.pairs import Pairs
from recipes.evaluation import multi_label as multi_label_measures
from recipes.evaluation.measuring import Predictions
from recipes.evaluation.metrics import reliability
from recipes.evaluation.pixels import confusion_matrix, measures
from recipes.evaluation.report_page import Result, page, thumbnail
from recipes.evaluation.sections import (
    PAIRS,
    WORST,
    WRONG,
    Worst,
    classification,
    curves,
    multi_label,
    page_of_models,
    segmentation,
)
from tests.recipes.html import Page

pytestmark = pytest.mark.any_backend

NAMES = ("cat", "<b>dog</b>", "bird & co")
# Of seven images; the last one is right, and the sixth does not count.
VALUES = [
    [0.7, 0.2, 0.1],
    [0.1, 0.8, 0.1],
    [0.05, 0.9, 0.05],
    [0.3, 0.4, 0.3],
    [0.6, 0.3, 0.1],
    [0.2, 0.2, 0.6],
]
TRUTH = [0, 1, 0, 2, 1, 2]


def predictions_of(values, right):
    values = np.array(values, "float32")
    return Predictions(values, right, False, np.array([0, 1, 2, 3, 4, 6]))


def images(number):
    return np.stack([np.full((8, 12, 3), 20 * i, "uint8") for i in range(number)])


def read(sections):
    html = page("<i>title</i>", {"command": "a & b"}, [Result("<u>", sections)])
    assert "<i>title" not in html and "<u>" not in html
    return html, Page(html)


@pytest.fixture(scope="module")
def classified():
    """The measures, the HTML and what it shows of these predictions."""
    predictions = predictions_of(VALUES, np.eye(3, dtype=bool)[TRUTH])
    split = Split(images(7), np.zeros(7, "int64"), name="photos/<{}>.png".format)
    found = predictions.measures()
    return found, *read(classification(found, predictions, split, NAMES))


def test_the_confusion_matrix_counts_the_images(classified):
    _, html, shown = classified
    assert shown.tables["Confusion matrix"] == [
        ["true / predicted", *NAMES],
        ["cat", "1", "1", "0"],
        ["<b>dog</b>", "1", "1", "0"],
        ["bird & co", "0", "1", "1"],
    ]
    assert "<b>dog" not in html
    assert html.count('style="--share: 0.50"') == 6


def test_the_most_wrong_images_come_first_with_their_names(classified):
    _, _, shown = classified
    assert shown.captions == [
        "true: cat\npredicted: <b>dog</b>, 90%\n<2>.png",
        "true: bird & co\npredicted: <b>dog</b>, 40%\n<3>.png",
        "true: <b>dog</b>\npredicted: cat, 60%\n<4>.png",
    ]
    means = []
    for image in shown.images:
        content = base64.b64decode(image.removeprefix("data:image/png;base64,"))
        means.append(np.asarray(Image.open(io.BytesIO(content))).mean())
    assert means == [40, 60, 80]


def test_the_calibration_is_that_of_the_measures(classified):
    found, html, shown = classified
    # Six images, each in a bin of its own but 0.6 and 0.6.
    by_hand = (0.3 + 0.2 + 0.9 + 0.4 + abs(1 - 1.2)) / 6
    assert found["ece"] == pytest.approx(by_hand, abs=1e-6)
    assert shown.numbers["ECE"] == f"{by_hand:.4f}"
    assert f"Expected calibration error {by_hand:.4f}." in html
    assert shown.numbers["top-1 accuracy"] == "0.5000"
    numbers, confidence, accuracy = reliability([0.6, 0.6, 0.9], [True, False, True])
    assert np.flatnonzero(numbers).tolist() == [8, 13]
    assert (confidence[8], accuracy[8]) == (pytest.approx(0.6), 0.5)
    assert (confidence[13], accuracy[13]) == (pytest.approx(0.9), 1)
    assert np.isnan(accuracy[0])
    error = np.nansum(numbers * np.abs(accuracy - confidence)) / 3
    assert error == pytest.approx((0.2 + 0.1) / 3)


def test_figures_have_the_color_of_the_text(classified):
    _, html, _ = classified
    figure = html[html.index("<svg") : html.index("</svg>")]
    assert "currentColor" in figure and "#000000" not in figure
    assert ">confidence</text>" in figure


def test_of_many_classes_the_most_confused_pairs_are_shown():
    names = imagenet.synsets()
    truth = np.array([0] * 4 + [1] * 3 + [2] * 60)
    predicted = np.array([1, 1, 1, 0] + [0, 0, 1] + [2] * 20 + list(range(100, 140)))
    values = np.eye(1000, dtype="float32")[predicted]
    right = np.eye(1000, dtype=bool)[truth]
    predictions = Predictions(values, right, True, np.arange(len(truth)))
    split = Split(np.zeros((len(truth), 4, 4, 3), "uint8"), truth)
    sections = classification(predictions.measures(), predictions, split, names)
    html, shown = read(sections)
    assert "Confusion matrix" not in shown.tables
    _, *rows = shown.tables["Most confused classes"]
    assert rows[0] == ["tench", "goldfish", "3", "75.0%"]
    assert rows[1] == ["goldfish", "tench", "2", "66.7%"]
    assert len(rows) == PAIRS
    assert len(shown.images) == WRONG
    assert len(html) < 100_000


def test_several_right_classes_have_no_confusion_matrix():
    right = np.eye(3, dtype=bool)[TRUTH]
    right[2, 2] = True
    predictions = predictions_of(VALUES, right)
    split = Split(images(7), np.zeros(7, "int64"))
    _, shown = read(classification(predictions.measures(), predictions, split, NAMES))
    assert not shown.tables
    assert any(each.startswith("true: cat or bird & co\n") for each in shown.captions)


def test_without_errors_there_are_no_images():
    predictions = predictions_of(VALUES, np.eye(3, dtype=bool)[np.argmax(VALUES, 1)])
    split = Split(images(7), np.zeros(7, "int64"))
    html, shown = read(
        classification(predictions.measures(), predictions, split, NAMES)
    )
    assert not shown.images
    assert "0 of 6 images are misclassified." in html


def test_multi_label_classes_and_thresholds():
    right = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], bool)
    probabilities = np.array(
        [[0.9, 0.35, 0.1], [0.8, 0.15, 0.1], [0.2, 0.55, 0.1], [0.1, 0.25, 0.1]]
    )
    found = multi_label_measures.measures(probabilities, right)
    _, shown = read(multi_label(found, NAMES))
    assert shown.tables["Average precision of each class"][1:] == [
        ["<b>dog</b>", "75.00"],
        ["cat", "100.00"],
        ["bird & co", "–"],
    ]
    _, *thresholds = shown.tables["Thresholds"]
    assert thresholds[4] == ["0.50", "100.00", "75.00", "85.71"]
    assert shown.numbers["mean average precision"] == "0.8750"


def test_the_worst_images_of_a_segmentation_model():
    truth = np.zeros((WORST + 2, 4, 6), "uint8")
    truth[:, :, 3:] = 1
    truth[-1] = 255  # no pixel counts
    predictions = np.zeros_like(truth)
    for index in range(WORST + 1):  # the later, the more pixels are right
        predictions[index].ravel()[: 3 * index] = truth[index].ravel()[: 3 * index]
    photos = [np.zeros((4, 6, 3), "uint8")] * len(truth)
    pairs = Pairs(photos, truth, 3, 255, "images/{}.jpg".format, "{}.png".format)
    worst, total = Worst(), 0
    for index in reversed(range(len(truth))):
        of_image = confusion_matrix(truth[index], predictions[index], 3)
        worst.add(index, truth[index], predictions[index], of_image)
        total = total + of_image
    found = {"images": len(truth), **measures(total)}
    assert [row[1] for row in worst.rows()] == list(range(WORST))
    _, shown = read(segmentation(found, worst, pairs, NAMES))
    assert shown.captions[0] == "mean IoU 25.00 %\n0.jpg"
    assert shown.numbers["mean IoU"] == f"{found['mean_iou']:.4f}"
    _, *rows = shown.tables["IoU of each class"]
    assert [row[0] for row in rows] == list(NAMES)
    assert rows[0][1] == f"{100 * found['class_iou'][0]:.2f}"
    assert rows[2][1] == "–"
    assert len(shown.images) == 3 * WORST


def test_the_curves_of_a_log(tmp_path):
    assert curves([]) == []
    log = '{"epoch": 0, "loss": 2.0, "val_loss": 1.5, "val_accuracy": 0.5}\n'
    (tmp_path / "log.jsonl").write_text(log)
    html = page_of_models([str(tmp_path), "vitcb_ti.nothing"], [])
    assert html.count("<svg") == 2
    assert ">top-1 accuracy</text>" in html
    assert page_of_models(["vitcb_ti.nothing"], []).count("<svg") == 0


def test_large_images_are_small_in_a_report():
    noise = np.random.default_rng(0).integers(0, 256, (600, 900, 3), "uint8")
    uri = thumbnail(noise)
    content = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(content)).size == (144, 96)
    assert len(uri) < 30_000
