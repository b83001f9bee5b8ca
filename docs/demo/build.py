"""Builds what the demo page needs: its models in ONNX, and ONNX Runtime for browsers.

    KERAS_BACKEND=torch python docs/demo/build.py [FOLDER]

FOLDER is `docs/demo/assets` if not given, where the page looks. It is replaced. npm
fetches ONNX Runtime in the version of `package-lock.json`, whose hash it checks.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import keras
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
SEGMENTED = (180, 240)
"""Height and width of the images that the UperNet was trained for."""
LIMIT = 1e-4
RUNTIME = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)


class WithAttention(torch.nn.Module):
    """A classifier that also gives the attention maps of every block.

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


def export_classifier(model: keras.Model, path: Path) -> None:
    """Writes a classifier with its attention as ONNX, and compares both outputs."""
    images = torch.zeros(1, *model.input_shape[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(WithAttention(model).eval(), (images,))
        torch.onnx.export(
            program,
            input_names=["images"],
            output_names=["predictions", "attention"],
            external_data=False,
            verbose=False,
        ).save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, images.shape).astype("float32")
    found = session.run(None, {"images": images})
    expected = (
        model.predict(images, verbose=0),
        np.stack(attention_maps(model, images), axis=1),
    )
    for mine, theirs in zip(found, expected, strict=True):
        if mine.shape != theirs.shape or np.abs(mine - theirs).max() > LIMIT:
            raise SystemExit(f"ONNX Runtime computes {model.name} otherwise.")


def build(folder: Path) -> None:
    """Writes the models, what the page must know about them, and ONNX Runtime."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    described = {}
    for name in CLASSIFIERS:
        model = keras_cbvit.load_model(name)
        export_classifier(model, folder / f"{name}.onnx")
        described[name] = describe(model)
    model = keras_cbvit.load_model(SEGMENTER)
    with tempfile.TemporaryDirectory() as temporary:
        export = keras_cbvit.export_model(model, Path(temporary) / "out", "onnx")
        shutil.copy(export.file, folder / f"{SEGMENTER}.onnx")
    described[SEGMENTER] = {**describe(model), "size": SEGMENTED}
    (folder / "models.json").write_text(json.dumps(described, indent=1))
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, temporary)
        quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--silent")
        subprocess.run(("npm", "ci", *quiet), cwd=temporary, check=True)
        package = Path(temporary) / "node_modules" / "onnxruntime-web"
        for name in RUNTIME:
            shutil.copy(package / "dist" / name, folder)


def describe(model: keras.Model) -> dict:
    """What the page must know about a model."""
    how = preprocessing_of(model)
    if not how.normalized:
        raise SystemExit(f"{model.name} does not normalize, which the page does not.")
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
