"""Files saved on one backend and loaded on another.

    python -m tests.exchange save FOLDER     on each backend
    python -m tests.exchange check FOLDER    on each backend

`tests/data/exchange` holds the files of an earlier day, which tests load as well.
"""

import sys
from pathlib import Path

import keras
import numpy as np

import keras_cbvit

BACKENDS = ("tensorflow", "jax", "torch")


def save(folder):
    """Saves a model of every kind of layer, its weights and its predictions."""
    keras.utils.set_random_seed(0)
    model = keras_cbvit.ViTCB(
        input_shape=(12, 16, 3),
        patch_size=4,
        hidden_dim=24,
        depth=2,
        num_heads=2,
        classes=5,
        broadcast="cbs",
        broadcast_place="both",
        drop_path_rate=0.1,
    )
    random = np.random.default_rng(0)
    for weight in model.weights:  # no zeros: everything must matter
        weight.assign(weight.numpy() + random.normal(scale=0.1, size=weight.shape))
    images = random.integers(0, 256, (4, 12, 16, 3)).astype("uint8")
    backend = keras.backend.backend()
    model.save(folder / f"{backend}.keras")
    np.savez_compressed(
        folder / f"{backend}.npz",
        images=images,
        predictions=model.predict(images, verbose=0),
        **{weight.path: weight.numpy() for weight in model.weights},
    )


def check(folder, saved_on):
    """Asserts that a file gives the weights and predictions it was saved with."""
    model = keras.saving.load_model(folder / f"{saved_on}.keras")
    with np.load(folder / f"{saved_on}.npz") as saved:
        predictions = model.predict(saved["images"], verbose=0)
        difference = np.abs(predictions - saved["predictions"]).max()
        assert difference <= 1e-5, difference
        assert {weight.path for weight in model.weights} == (
            set(saved.files) - {"images", "predictions"}
        )
        for weight in model.weights:
            np.testing.assert_array_equal(weight.numpy(), saved[weight.path])
    return difference


if __name__ == "__main__":
    step, folder = sys.argv[1], Path(sys.argv[2])
    if step == "save":
        save(folder)
    else:
        for backend in BACKENDS:
            print(
                f"saved on {backend}, loaded on {keras.backend.backend()}: weights "
                f"equal, predictions within {check(folder, backend):.1e}"
            )
