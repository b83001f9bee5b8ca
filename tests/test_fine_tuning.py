"""The path a user takes: published weights, another task, another size, `fit`."""

import keras
import numpy as np
import pytest

import keras_cbvit

pytestmark = pytest.mark.slow


def test_published_weights_are_fine_tuned_on_another_task_and_size(
    tmp_path, monkeypatch
):
    keras.utils.set_random_seed(0)
    source = keras_cbvit.ViTCB(
        input_shape=(16, 16, 3),
        patch_size=4,
        hidden_dim=32,
        depth=2,
        num_heads=2,
        classes=10,
        broadcast="cbs",
    )
    keras_cbvit.publish(
        source,
        "vitcbs_mini.noise",
        tmp_path,
        class_names=[str(i) for i in range(10)],
        evaluations=[],
        trained_on="nothing",
        recipe="none",
        license="Apache-2.0",
    )
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(tmp_path))
    model = keras_cbvit.ViTCB(
        weights="vitcbs_mini.noise", classes=2, input_shape=(16, 24, 3)
    )
    qkv = "block_0/attention/qkv/kernel"
    before = {weight.path: weight.numpy() for weight in source.weights}[qkv]
    after = {weight.path: weight.numpy() for weight in model.weights}[qkv]
    np.testing.assert_array_equal(after, before)

    # Bright or dark, which is learned in a few steps.
    random = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = (
        random.integers(0, 100, (64, 16, 24, 3)) + 120 * labels[:, None, None, None]
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(images.astype("uint8"), labels, batch_size=16, epochs=4, verbose=0)
    _, accuracy = model.evaluate(images.astype("uint8"), labels, verbose=0)
    assert accuracy >= 0.95
    tuned = {weight.path: weight.numpy() for weight in model.weights}
    assert (tuned[qkv] != before).any()
    assert (tuned["block_1/mlp/context_broadcast/scale"] != 0).any()
