"""k-NN and linear probes, against hand-derived votes and scikit-learn."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_cbvit
from recipes.data.images import Split
from recipes.data.sources import Dataset
from recipes.evaluate import Evaluation, evaluate
from recipes.evaluation import probes
from tests.tiny import fill, tiny

pytestmark = pytest.mark.any_backend


def unit(*degrees):
    """Vectors of several lengths in these directions, as features of one vector."""
    angles = np.radians(degrees)
    lengths = 1 + np.arange(len(degrees))[:, None]
    return (lengths * np.stack([np.cos(angles), np.sin(angles)], 1))[:, None]


def test_votes_by_hand(monkeypatch):
    monkeypatch.setattr(probes, "NEIGHBORS", (3,))
    train, labels = unit(0, 10, 30, 90), np.array([2, 0, 2, 1])
    ((title, found, chosen),) = probes.nearest_neighbors(train, labels, unit(12), 4)
    assert (title, chosen) == ("3-NN", {})
    # The three nearest are 12, 2 and 18 degrees away; the one at 90 does not vote.
    a, b, c = np.exp(np.cos(np.radians([12, 2, 18])) / 0.07)
    expected = np.array([b, 0, a + c, 0]) / (a + b + c)
    np.testing.assert_allclose(found, expected[None], rtol=1e-4)


def test_only_the_first_vector_votes(monkeypatch):
    monkeypatch.setattr(probes, "NEIGHBORS", (1,))
    train = np.concatenate([unit(0, 90), unit(90, 0)], axis=1)
    test = np.concatenate([unit(1), unit(1)], axis=1)
    ((_, found, _),) = probes.nearest_neighbors(train, np.array([0, 1]), test, 2)
    np.testing.assert_allclose(found, [[1, 0]])


def test_too_few_neighbors_are_refused():
    with pytest.raises(
        ValueError,
        match="requires at least 20 .*, but the data set has 4",
    ):
        next(probes.nearest_neighbors(unit(0, 1, 2, 3), np.arange(4), unit(1), 4))


def test_the_linear_probe_finds_what_is_linear_in_either_vector():
    random = np.random.default_rng(0)
    features = random.normal(size=(600, 2, 8))
    # Of very different scales: standardized, they do not matter.
    features[:, 1] *= 1e-3
    labels = 2 * (features[:, 0, 0] > 0) + (features[:, 1, 3] > 0)
    train, test = slice(0, 500), slice(500, None)
    ((title, found, chosen),) = probes.linear(
        features[train], labels[train], features[test], 5
    )
    assert title == "linear probe"
    assert chosen["regularization"] in probes.STRENGTHS
    assert (found.argmax(axis=1) == labels[test]).mean() > 0.9
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert not found[:, 4].any()  # a class without training images


def test_features_are_the_normalized_tokens_of_a_block():
    model = fill(tiny(classes=None, include_top=False, pooling=None, depth=2))
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3)).astype("float32")
    tokens = model.predict(images, verbose=0)  # behind the norm
    expected = np.stack([tokens[:, 0], tokens[:, 1:].mean(axis=1)], axis=1)
    found = probes.feature_model("m", model).predict(images, verbose=0)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-5)

    both = probes.feature_model("m", model, (0, 1)).predict(images, verbose=0)
    np.testing.assert_allclose(both[:, 1], expected, atol=1e-5)
    shallow = tiny(classes=None, include_top=False, pooling=None, depth=1)
    by_name = model.weights_by_name()
    for name, weight in shallow.weights_by_name().items():
        weight.assign(by_name[name].numpy())
    tokens = shallow.predict(images, verbose=0)
    np.testing.assert_allclose(both[:, 0, 0], tokens[:, 0], atol=1e-5)


def test_features_without_a_class_token_are_the_mean_alone():
    options = {"class_token": False, "pooling": "avg", "fc_norm": True}
    model = fill(tiny(**options))
    images = np.zeros((2, 8, 12, 3), "float32")
    found = probes.feature_model("m", model).predict(images, verbose=0)
    assert found.shape == (2, 1, 1, 16)
    # Normalized as the model normalizes what it pools, but before the mean.
    tokens = model.blocks[-1].output
    expected = keras.Model(model.inputs, model.get_layer("norm")(tokens))
    expected = expected.predict(images, verbose=0).mean(axis=1)
    np.testing.assert_allclose(found[:, 0, 0], expected, atol=1e-5)


def test_features_of_other_models_are_what_their_head_takes():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    headless = keras.Model(inputs, x)
    outputs = keras.layers.Softmax()(keras.layers.Dense(4)(x))
    images = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype("float32")
    expected = images.mean(axis=(1, 2))[:, None, None]
    for model in (headless, keras.Model(inputs, outputs)):
        found = probes.feature_model("m", model).predict(images, verbose=0)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(ValueError, match="m returns features of shape"):
        probes.feature_model("m", keras.Model(inputs, keras.layers.ReLU()(inputs)))
    with pytest.raises(ValueError, match="requires a VisionTransformer, which m is"):
        probes.feature_model("m", headless, (1,))


def test_a_block_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="block 2 does not exist; the 2 blocks are 0"):
        probes.feature_model("m", tiny(), (0, 2))


def test_a_probe_of_images_that_differ_in_brightness():
    random = np.random.default_rng(0)
    labels = np.arange(80) % 2
    images = random.integers(0, 100, (80, 8, 12, 3)) + 150 * labels[:, None, None, None]
    split = Split(images.astype("uint8"), labels)
    dataset = Dataset(split, split.first(20), ("dark", "bright"), "brightness")
    options = Evaluation((), probe=("knn", "linear"), probe_blocks=(0, 1))
    model = fill(tiny(classes=5))  # whose classes are others
    rows = list(probes.probe("m", model, dataset, options, 16))
    titles = ("10-NN", "20-NN", "linear probe")
    expected = [f"{title}, block {block}" for block in (0, 1) for title in titles]
    assert [row["under"] for row in rows] == expected
    assert all(row["images"] == 20 for row in rows)
    assert all(row["top1"] == 1 for row in rows)


@pytest.mark.slow
def test_probes_of_a_file_on_digits(tmp_path):
    model = keras_cbvit.ViTCB(
        include_top=False,
        input_shape=(8, 8, 3),
        patch_size=4,
        hidden_dim=32,
        depth=1,
        num_heads=2,
    )
    model.save(tmp_path / "headless.keras")
    name = str(tmp_path / "headless.keras")
    options = Evaluation((name,), on=("digits",), probe=("knn", "linear"))
    seen = []
    rows = evaluate(options, seen.append)
    assert rows == seen
    assert [row["under"] for row in rows] == ["10-NN", "20-NN", "linear probe"]
    assert all(row["images"] == 360 and row["top1"] > 0.8 for row in rows)
    with pytest.raises(ValueError, match="under=.*cannot be combined with --probe"):
        evaluate(dataclasses.replace(options, under=("occlusion",)))
    with pytest.raises(ValueError, match=r"probe_blocks=\(0,\) requires --probe"):
        evaluate(dataclasses.replace(options, probe=(), probe_blocks=(0,)))
