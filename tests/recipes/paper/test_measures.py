import dataclasses

import keras
import numpy as np
import pytest

import keras_cbvit
from recipes.configs import camvid_mini
from recipes.data.segmentation.pairs import load_pairs
from recipes.data.sources import load_dataset
from recipes.evaluation import paper_measures as measures
from recipes.evaluation.paper_measures import cost, measure, measure_pixels
from recipes.options.classification import Data
from tests.recipes.evaluation.imagenet_sets import FOLDER, model_that_answers
from tests.recipes.test_segment import write_pictures

pytestmark = pytest.mark.slow

DIGITS = Data(dataset="digits", image_size=(16, 16))


@pytest.fixture(scope="module")
def digits():
    return load_dataset(DIGITS, train=False)


def small(**arguments):
    return keras_cbvit.ViTCB(
        input_shape=(16, 16, 3),
        patch_size=4,
        hidden_dim=8,
        depth=3,
        num_heads=2,
        classes=10,
        **arguments,
    )


def test_accuracy_is_in_per_cent_and_the_center_is_occluded(digits):
    images = keras.Input((16, 16, 3))
    x = keras.layers.Cropping2D(4)(images)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(images, keras.layers.Dense(10)(x))
    # Says 7 to every digit, which is bright in the center, and 3 to what is black.
    bias = np.where(np.arange(10) == 3, 0.1, 0)
    model.set_weights([np.tile(np.eye(10)[7], (3, 1)), bias])
    for name, answer in (("top1", 7), ("occlusion", 3)):
        share = 100 * np.mean(digits.test.labels == answer)
        assert measure(name, model, digits, DIGITS) == pytest.approx(share)


def test_fgsm_is_measured_under_fgsm(digits, monkeypatch):
    def evaluated(model, split, under):
        return {"top1": {"fgsm": 0.25}[under]}

    monkeypatch.setattr(measures, "measure_classifier", evaluated)
    assert measure("fgsm", small(), digits, DIGITS) == 25


def test_other_sets_of_imagenet_have_their_own_protocol(digits):
    # Of five pictures one is right; class 500, of which it is most certain, is none of
    # ImageNet-A's.
    model = model_that_answers({1: 0, 2: 999, 5: 230}, above=500)
    data = Data(dataset="imagenet2012", data_dir=FOLDER, image_size=(8, 8))
    assert measure("imagenet_a", model, digits, data) == pytest.approx(20)


@pytest.mark.any_backend
def test_uniform_attention_has_the_greatest_entropy_in_every_block(digits):
    model = small()
    for i in range(3):
        qkv = model.get_layer(f"block_{i}").attention.qkv
        qkv.set_weights([np.zeros((8, 24)), np.zeros(24)])
    found = measure("entropy", model, digits, DIGITS)
    np.testing.assert_allclose(found, [np.log(17)] * 3, rtol=1e-5)


def test_lambda_is_measured_in_every_block(digits):
    model = small(broadcast="cbs")
    for i in range(3):
        scale = model.get_layer(f"block_{i}").mlp.end[0]
        scale.set_weights([np.array([1.0, -1, 1, -1, 1, -1, 1, 1]) * (i + 1)])
    assert measure("scale_ratio", model, digits, DIGITS) == pytest.approx([1, 1, 1])
    assert measure("scale_mean", model, digits, DIGITS) == pytest.approx(
        [0.25, 0.5, 0.75]
    )


def test_attention_is_that_of_the_first_images(digits, monkeypatch):
    seen = []

    def statistics(model, images):
        seen.append(images)
        return {"entropy": np.zeros(3)}

    monkeypatch.setattr(measures, "IMAGES", 7)

    monkeypatch.setattr(keras_cbvit.analysis, "attention_statistics", statistics)
    assert measure("entropy", small(), digits, DIGITS) == [0, 0, 0]
    np.testing.assert_array_equal(seen[0], digits.test.images[:7])


def test_pixels_are_measured_in_per_cent_on_the_whole_test_set(tmp_path):
    write_pictures(tmp_path)
    config = camvid_mini.config()
    data = dataclasses.replace(config.data, dataset=str(tmp_path), scale=(24, 64))
    pairs = load_pairs(data).test
    # Says class 1 to every pixel; the pictures have three of the eleven.
    images = keras.Input((None, None, 3))
    logits = keras.layers.Conv2D(11, 1)
    model = keras.Model(images, logits(images))
    logits.set_weights([np.zeros((1, 1, 3, 11)), np.arange(11) == 1])
    truth = np.concatenate([labels[labels != 255] for _, labels in pairs])
    share = 100 * np.mean(truth == 1)
    found = measure_pixels(model, pairs, dataclasses.replace(config, data=data))
    assert found == {
        "mean_iou": pytest.approx(share / 3),
        "pixel_accuracy": pytest.approx(share),
        "class_iou": [0, pytest.approx(share), 0, *[None] * 8],
    }


def test_cost_counts_what_cb_adds_by_itself():
    plain, cb = cost(small(broadcast="none")), cost(small())
    assert cb["parameters"] == plain["parameters"]
    assert cb["macs"] == plain["macs"]
    # In each of 3 blocks 17 tokens of 8 channels: the sum, and twice a half of them.
    assert (plain["context_macs"], cb["context_macs"]) == (0, 3 * (2 * 17 + 1) * 8)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "epoch\n0\n",
        "epoch,val_loss\n0,x\n0",
        "\xff",
        "epoch,val_loss,val_accuracy\n5,2.5,0.25\n6,1.5,0.5\n",
    ],
)
def test_a_log_that_is_damaged_is_said(tmp_path, text):
    file = tmp_path / "log.csv"
    file.write_text("epoch,val_loss,val_accuracy\n0,2.5,0.25\n1,1.5,0.5\n")
    names = ("test_loss", "test_top1")
    curves = measures.by_epoch(names, file)
    assert curves == {"test_loss": [2.5, 1.5], "test_top1": [25, 50]}
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"log\.csv is damaged \("):
        measures.by_epoch(names, file)
