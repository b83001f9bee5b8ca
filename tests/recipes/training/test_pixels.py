import keras
import numpy as np
import pytest
from keras import ops

from recipes.data.segmentation.pairs import IGNORED
from recipes.training.pixels import PixelCrossEntropy, Segmenter


def cross_entropies(labels, logits):
    """Of each pixel in float64."""
    logits = logits.astype("float64")
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    safe = np.where(labels == IGNORED, 0, labels)
    return -np.take_along_axis(logs, safe[..., None].astype(int), axis=-1)[..., 0]


@pytest.fixture
def batch():
    """Labels of which some do not count, as many in no two images, and logits."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, (4, 6, 8)).astype("uint8")
    for image in range(4):
        labels[image, : image + 1] = IGNORED
    return labels, random.normal(size=(4, 6, 8, 5)).astype("float32")


def weights_of(labels):
    counted = (labels != IGNORED).sum()
    return np.full(len(labels), labels.size / counted, "float32")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_loss_is_the_mean_over_the_pixels_that_count(batch, dtype):
    labels, logits = batch
    expected = cross_entropies(labels, logits)[labels != IGNORED].mean()
    tensor = ops.cast(ops.convert_to_tensor(logits), dtype)
    found = PixelCrossEntropy()(labels, tensor, sample_weight=weights_of(labels))
    tolerance = 1e-6 if dtype == "float32" else 5e-3
    assert float(found) == pytest.approx(expected, rel=tolerance)


def test_what_is_ignored_has_no_influence(batch):
    labels, logits = batch
    other = logits.copy()
    other[labels == IGNORED] = 1e4
    losses = [
        ops.convert_to_numpy(PixelCrossEntropy().call(labels, x))
        for x in (logits, other)
    ]
    np.testing.assert_array_equal(*losses)
    nothing = PixelCrossEntropy()(np.full_like(labels, IGNORED), logits)
    assert float(nothing) == 0


def test_smaller_logits_are_brought_to_the_size_of_the_labels():
    labels = np.array([[[0, 0, 1, 1]]], "uint8")
    logits = np.array([[[[1, 0], [0, 2]]]], "float32")
    wide = np.array([[[[1, 0], [0.75, 0.5], [0.25, 1.5], [0, 2]]]], "float32")
    expected = cross_entropies(labels, wide).mean()
    found = PixelCrossEntropy()(labels, logits)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def two_heads():
    images = keras.Input((6, 8, 3))
    x = keras.layers.Rescaling(1 / 255)(images)
    logits = keras.layers.Conv2D(5, 1, name="logits")(x)
    auxiliary = keras.layers.Conv2D(5, 3, padding="same", name="auxiliary")(x)
    return keras.Model(images, {"predictions": logits, "auxiliary": auxiliary})


def test_the_auxiliary_head_has_its_share_of_the_loss(batch):
    labels, _ = batch
    images = np.random.default_rng(1).integers(0, 256, (4, 6, 8, 3)).astype("uint8")
    model = two_heads()
    main, auxiliary = (
        cross_entropies(labels, ops.convert_to_numpy(x))[labels != IGNORED].mean()
        for x in map(model(images).get, ("predictions", "auxiliary"))
    )
    trainer = Segmenter(model)
    weights = {"predictions": 1.0, "auxiliary": 0.4}
    losses = {name: PixelCrossEntropy() for name in weights}
    trainer.compile(keras.optimizers.SGD(1e-2), losses, loss_weights=weights)
    batches = ((images, labels, weights_of(labels)) for _ in range(2))
    history = trainer.fit(
        batches, steps_per_epoch=1, epochs=2, shuffle=False, verbose=0
    ).history
    assert history["loss"][0] == pytest.approx(main + 0.4 * auxiliary, rel=1e-5)
    assert history["loss"][1] < history["loss"][0]


def test_a_single_head_is_trained_alike(batch):
    labels, _ = batch
    images = np.zeros((4, 6, 8, 3), "uint8")
    model = two_heads()
    trainer = Segmenter(keras.Model(model.input, model.output["predictions"]))
    trainer.compile(keras.optimizers.SGD(1e-2), PixelCrossEntropy())
    logits = ops.convert_to_numpy(trainer(images))
    expected = cross_entropies(labels, logits)[labels != IGNORED].mean()
    batches = ((images, labels, weights_of(labels)) for _ in range(1))
    history = trainer.fit(batches, steps_per_epoch=1, shuffle=False, verbose=0).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
