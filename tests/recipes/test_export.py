"""`keras-cbvit export`: from a name to folders of other runtimes."""

import json

import numpy as np
import pytest
from PIL import Image

import keras_cbvit
from keras_cbvit.export.formats import FORMATS
from keras_cbvit.pretrained.publishing import preprocessing_of
from keras_cbvit.pretrained.sources import PLACE_VARIABLE
from recipes import export
from recipes.data.sources import load_dataset
from recipes.options.classification import Data
from tests.tiny import tiny

pytestmark = [pytest.mark.any_backend, pytest.mark.slow]


@pytest.fixture
def photos(tmp_path):
    """A folder of four photographs, of any size, one in a folder within."""
    random = np.random.default_rng(0)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for name in ("a.png", "b.png", "c.png", "more/d.png"):
        pixels = random.integers(0, 256, (48, 40, 3), "uint8")
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    return str(tmp_path / "photos")


def test_published_weights_are_exported_with_what_their_record_says(
    photos, tmp_path, capsys, monkeypatch
):
    keras_cbvit.publish(
        tiny(depth=1),
        "vitcb_tests.photos",
        tmp_path / "weights",
        class_names=("ant", "bee", "cat"),
        evaluations=[],
        trained_on="photos",
        recipe="by hand",
        license="Apache-2.0",
    )
    monkeypatch.setenv(PLACE_VARIABLE, str(tmp_path / "weights"))
    options = ["--to", "torch", "--images", photos, "--out", str(tmp_path / "out")]
    export.main(["vitcb_tests.photos", *options])
    facts = json.loads((tmp_path / "out" / "torch" / "model.json").read_text())
    assert facts["license"] == "Apache-2.0"
    assert facts["class_names"] == ["ant", "bee", "cat"]
    assert [*facts["differences"]] == ["1x8x12x3", "3x8x12x3"]
    printed = capsys.readouterr().out
    for difference in facts["differences"].values():
        assert difference <= 1e-5
        assert f"{difference:.1e}" in printed
    assert str(tmp_path / "out" / "torch" / FORMATS["torch"].file) in printed


@pytest.mark.parametrize(
    "options, message",
    [
        (["--images", "nowhere"], "nowhere"),
        (["--limit", "0", "--images", "."], "limit=0 must be at least 1"),
        (["--quantize", "int8"], "'torch' does not support int8"),
        (["--to"], "--to requires a format"),
    ],
)
def test_what_cannot_work_ends_in_a_sentence(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    to = [] if "--to" in options else ["--to", "torch"]
    with pytest.raises(SystemExit, match=message):
        export.main(["vitcb_mini.cifar10", *to, *options])
    assert not [*tmp_path.iterdir()]


def test_the_table_is_printed_if_a_later_format_fails(tmp_path, capsys):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "notes.txt").write_text("mine")
    model = tmp_path / "model.keras"
    tiny(depth=1).save(model)
    with pytest.raises(SystemExit, match="onnx"):
        export.main([str(model), "--to", "torch", "onnx", "--out", str(tmp_path)])
    assert str(tmp_path / "torch" / FORMATS["torch"].file) in capsys.readouterr().out


@pytest.mark.parametrize("normalized", [True, False])
def test_images_are_preprocessed_as_for_a_classifier(normalized, photos, tmp_path):
    model = keras_cbvit.ViTCB(
        weights="vitcb_mini.cifar10", include_preprocessing=normalized
    )
    classifier = keras_cbvit.Classifier(model)
    options = export.Exports("a.keras", ("torch",), images=photos)
    got = export._images(model, options, classifier.preprocessing)
    paths = [f"{photos}/{name}.png" for name in ("a", "b", "c", "more/d")]
    expected = np.stack([classifier.preprocess(path) for path in paths])
    np.testing.assert_array_equal(np.sort(got, 0), np.sort(expected, 0))
    assert (got.max() > 5) == normalized


def test_training_images_of_a_data_set_are_taken():
    model = tiny(input_shape=(8, 8, 3))
    how = preprocessing_of(model)
    options = export.Exports("a.keras", ("torch",), images="digits", limit=10)
    got = export._images(model, options, how)
    train = load_dataset(Data(image_size=(8, 8))).train.images
    assert len(got) == 10
    np.testing.assert_array_equal(got[0], train[0])
