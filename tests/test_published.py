"""The weights that come with the package still predict what they did.

Run as a script, it writes what they predict to `tests/data/published.json`.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest

import keras_cbvit
from keras_cbvit.models.registry import UPERNET
from keras_cbvit.pretrained.sources import Folder, own_folder

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "data" / "published.json"
RECORDS = Folder(own_folder()).records()
CLASSIFIERS = [name for name in sorted(RECORDS) if not name.startswith(UPERNET)]
UPERNETS = [name for name in sorted(RECORDS) if name.startswith(UPERNET)]


def waves_of(shape):
    """Four colored waves over a slope, of values 0-255."""
    height, width, _ = shape
    y, x, color = np.mgrid[:height, :width, :3]
    y, x = y / height, x / width
    waves = [np.sin(2 * np.pi * (k * x + y) + color) + y - x for k in range(1, 5)]
    return np.round(255 * (np.stack(waves) + 2) / 4).astype("uint8")


load = functools.cache(keras_cbvit.load_model)


def predictions(name):
    model = keras_cbvit.ViTCB(weights=name)
    return model.predict(waves_of(model.input_shape[1:]), verbose=0)


def classes_of_pixels(name):
    """The class that a segmentation model predicts for each pixel, as digits."""
    model = load(name)
    images = np.concatenate([waves_of((96, 128, 3)), 255 - waves_of((96, 128, 3))])
    classes = model.predict(images, verbose=0).argmax(axis=-1)
    return ["".join(f"{number:x}" for number in row.ravel()) for row in classes]


@pytest.fixture(autouse=True)
def no_other_place(monkeypatch):
    monkeypatch.delenv("KERAS_CBVIT_WEIGHTS", raising=False)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_published_weights_predict_what_they_did(name):
    golden = np.array(json.loads(GOLDEN.read_text())[name])
    found = predictions(name)
    np.testing.assert_allclose(found, golden, rtol=1e-4, atol=1e-6)
    assert np.ptp(golden, axis=0).max() > 0.1  # the images are told apart


def test_the_published_models_are_these():
    minis = ("vit_mini", "vitcb_mini", "vitcbs_mini")
    assert [f"{mini}.cifar10" for mini in minis] == CLASSIFIERS
    assert [f"upernet_{mini}.camvid_mini" for mini in minis] == UPERNETS


@pytest.mark.parametrize("name", UPERNETS)
def test_published_weights_give_each_pixel_the_class_they_did(name):
    golden = "".join(json.loads(GOLDEN.read_text())[name])
    found = "".join(classes_of_pixels(name))
    assert len(found) == len(golden)
    different = sum(a != b for a, b in zip(found, golden, strict=True))
    assert different <= 1e-4 * len(golden)
    assert len(set(golden)) > 3  # several classes are seen


@pytest.mark.parametrize("name", RECORDS)
def test_published_weights_are_what_the_record_says(name):
    record = RECORDS[name]
    assert record.bytes == (own_folder() / record.filename).stat().st_size < 25e6
    model = load(name)
    assert model.count_params() == record.parameters
    assert model.input_shape[1:] == tuple(record.input_shape)
    assert model.output_shape[-1] == len(record.class_names)
    assert list(model.class_names) == record.class_names
    own = {
        key: record.architecture[key] for key in record.architecture.keys() - {"class"}
    }
    assert record.architecture["class"] == type(model).__name__
    assert own.keys() == model.own_config.keys()
    # A record may be older than some fields of the spec, which have their defaults.
    again = type(model).from_config({**model.get_config(), **own})
    assert again.own_config == model.own_config
    (evaluation,) = record.evaluations
    assert evaluation.images > 0 and name in evaluation.command
    assert 0 < next(iter(evaluation.metrics.values())) < 1
    card = (own_folder() / f"{record.stem}.md").read_text()
    assert record.sha256 in card and evaluation.command in card


def test_a_class_has_a_name():
    name = "vitcb_mini.cifar10"
    ((first, *_), *_) = keras_cbvit.decode_predictions(predictions(name), name, top=2)
    assert first[0] in RECORDS[name].class_names


if __name__ == "__main__":
    golden = {
        name: predictions(name).astype("float64").round(7).tolist()
        for name in CLASSIFIERS
    } | {name: classes_of_pixels(name) for name in UPERNETS}
    GOLDEN.write_text(json.dumps(golden) + "\n")
