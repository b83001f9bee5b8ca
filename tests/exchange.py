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


def classifier():
    """A model of every kind of layer."""
    return keras_cbvit.ViTCB(
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


def upernet():
    """A segmentation model, of images of another size than its position embedding."""
    vit = keras_cbvit.ViTCB(
        input_shape=(12, 12, 3),
        patch_size=4,
        hidden_dim=8,
        depth=4,
        num_heads=2,
        broadcast="cbs",
        include_top=False,
    )
    return keras_cbvit.SegmentationModel(
        keras_cbvit.feature_pyramid(vit, range(4)), 5, 4
    )


# By the prefix of their files.
MODELS = {"": (classifier, (4, 12, 16, 3)), "upernet_": (upernet, (2, 44, 60, 3))}


def save(folder):
    """Saves models, their weights and their predictions."""
    for prefix, (build, shape) in MODELS.items():
        keras.utils.set_random_seed(0)
        model = build()
        random = np.random.default_rng(0)
        for weight in model.weights:  # no zeros: everything must matter
            noise = random.normal(scale=0.1, size=weight.shape)
            if weight.path.endswith("variance"):
                noise = np.abs(noise)
            weight.assign(weight.numpy() + noise)
        images = random.integers(0, 256, shape).astype("uint8")
        name = f"{prefix}{keras.backend.backend()}"
        model.save(folder / f"{name}.keras")
        np.savez_compressed(
            folder / f"{name}.npz",
            images=images,
            predictions=model.predict(images, verbose=0),
            **{weight.path: weight.numpy() for weight in model.weights},
        )

    save_lora(folder, keras.backend.backend())


def save_lora(folder, saved_on):
    """Saves LoRA of the classifier, and its predictions."""
    model = keras.saving.load_model(folder / f"{saved_on}.keras")
    keras_cbvit.enable_lora(model, 2, ("qkv", "fc2"), [1], alpha=3, train_scale=True)
    random = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(random.normal(scale=0.1, size=weight.shape))
    keras_cbvit.save_lora_weights(model, folder / f"{saved_on}.lora.h5")
    images = random.integers(0, 256, (4, 12, 16, 3)).astype("uint8")
    np.savez_compressed(
        folder / f"{saved_on}_lora.npz",
        images=images,
        predictions=model.predict(images, verbose=0),
    )


def check_lora(folder, saved_on):
    """Asserts that a file of LoRA gives the predictions it was saved with."""
    model = keras.saving.load_model(folder / f"{saved_on}.keras")
    with np.load(folder / f"{saved_on}_lora.npz") as saved:
        plain = model.predict(saved["images"], verbose=0)
        keras_cbvit.load_lora_weights(model, folder / f"{saved_on}.lora.h5")
        predictions = model.predict(saved["images"], verbose=0)
        difference = np.abs(predictions - saved["predictions"]).max()
    assert difference <= 1e-5 < np.abs(predictions - plain).max(), difference
    return difference


def check(folder, saved_on):
    """Asserts that files give the weights and predictions they were saved with."""
    found = [check_file(folder, prefix + saved_on) for prefix in MODELS]
    return max(*found, check_lora(folder, saved_on))


def check_file(folder, name):
    model = keras.saving.load_model(folder / f"{name}.keras")
    with np.load(folder / f"{name}.npz") as saved:
        predictions = model.predict(saved["images"], verbose=0)
        difference = np.abs(predictions - saved["predictions"]).max()
        assert difference <= 1e-5 * max(np.abs(predictions).max(), 1), difference
        same = predictions.argmax(-1) == saved["predictions"].argmax(-1)
        assert same.mean() >= 0.9999, same.mean()  # of UperNet: of the pixels
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
