"""What `export_model` writes and what it refuses, with what every environment has."""

import dataclasses
import importlib.util
import json
import re
import subprocess

import keras
import numpy as np
import pytest

import keras_cbvit
from keras_cbvit.export import formats
from keras_cbvit.export import model as of_models
from tests.tiny import QUANTIZED_FILES, fill, images, predict, tiny

BACKEND = keras.backend.backend()
OWN = {"torch": "torch", "tensorflow": "saved_model", "jax": "stablehlo"}[BACKEND]
"""A format of this backend that needs no other package."""
exports = pytest.mark.skipif(
    BACKEND == "torch" and keras.__version__.startswith("3.12."),
    reason="Keras 3.12 on torch makes the number of images a constant",
)


@exports
@pytest.mark.slow
def test_a_model_of_any_size_and_precision_predicts_the_same_of_any_size(tmp_path):
    model = fill(tiny(depth=1, input_shape=(None, None, 3), position_grid=(3, 2)))
    found = keras_cbvit.export_model(model, tmp_path / "new" / "export", OWN)
    run = formats.FORMATS[OWN].load(found.file)
    for shape in ((1, 16, 20, 3), (5, 28, 16, 3)):
        x = np.random.default_rng(7).uniform(0, 255, shape).astype("float32")
        np.testing.assert_allclose(run(x), predict(model, x), atol=1e-5)
    assert [*found.differences] == ["1x16x16x3", "3x16x16x3", "2x20x24x3"]
    assert {path.name for path in found.folder.iterdir()} == {
        formats.FORMATS[OWN].file,
        "model.json",
    }


def watched(monkeypatch, change):
    """Lets this backend's runtime predict `change(images, predictions)`."""
    own = formats.FORMATS[OWN]

    def load(path):
        run = own.load(path)
        return lambda x: change(x, run(x))

    monkeypatch.setitem(formats.FORMATS, OWN, dataclasses.replace(own, load=load))


@exports
@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.any_backend
def test_predictions_that_are_no_numbers_are_refused(number, tmp_path, monkeypatch):
    """Of any batch: the greatest of 0 and NaN is either, by their order."""
    watched(monkeypatch, lambda x, y: y * (np.nan if len(x) == number else 1))
    with pytest.raises(ValueError, match=f"by nan on images of {number}x8x12x3"):
        keras_cbvit.export_model(fill(tiny(depth=1)), tmp_path / "export", OWN)
    assert not [*tmp_path.iterdir()]


@exports
def test_random_images_are_as_the_model_takes_them(tmp_path, monkeypatch):
    seen = []
    watched(monkeypatch, lambda x, y: seen.append(x) or y)
    model = fill(tiny(depth=1, include_preprocessing=False))
    keras_cbvit.export_model(model, tmp_path / "export", OWN)
    assert -3 < seen[-1].min() < 0 < seen[-1].max() < 3


@exports
@pytest.mark.any_backend
def test_a_file_that_predicts_something_else_is_not_left_behind(tmp_path, monkeypatch):
    """The difference is real: the file is that of another model."""
    model, other = fill(tiny(depth=1)), fill(tiny(depth=1), seed=1)
    own = formats.FORMATS[OWN]
    wrong = dataclasses.replace(own, write=lambda _, path: own.write(other, path))
    monkeypatch.setitem(formats.FORMATS, OWN, wrong)
    with pytest.raises(ValueError, match=f"'{OWN}' differ from the model's by 0"):
        keras_cbvit.export_model(model, tmp_path / "export", OWN)
    assert not [*tmp_path.iterdir()]


@exports
def test_metadata_say_how_to_feed_and_name(tmp_path):
    model = fill(tiny(depth=1, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)))
    model.class_names = ("ant", "bee", "cat")
    found = keras_cbvit.export_model(
        model,
        tmp_path / "export",
        OWN,
        images=images(model),
        license="Apache-2.0",
        crop_fraction=0.875,
    )
    facts = json.loads((tmp_path / "export" / "model.json").read_text())
    assert facts["preprocessing"] == {
        "image_size": [8, 12],
        "crop_fraction": 0.875,
        "interpolation": "bicubic",
        "model_normalizes": True,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
    }
    assert facts["class_names"] == ["ant", "bee", "cat"]
    assert facts["license"] == "Apache-2.0"
    assert facts["architecture"]["class"] == "VisionTransformer"
    assert facts["versions"]["keras"] == keras.__version__
    size = sum(
        path.stat().st_size
        for path in found.folder.rglob("*")
        if path.is_file() and path.name != "model.json"
    )
    assert found.bytes == size > 4 * model.count_params()


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "options, message",
    [
        ({"format": "coreml"}, "format='coreml' is unknown"),
        ({"format": "torch", "quantize": "int4"}, "quantize='int4' is unknown"),
        (
            {"format": "torch", "quantize": "int8"},
            "does not support int8; use",
        ),
        (
            {"format": "torch", "images": np.zeros((2, 8, 12, 3))},
            r"images must have shape (None, 8, 12, 3), at least 3 of them, not (2, 8",
        ),
        (
            {"format": "torch", "crop_fraction": 7},
            "crop_fraction=7 must be between 0.01 and 1.",
        ),
        ({"format": "torch", "license": 3}, "license=3 must be an SPDX identifier"),
    ],
)
def test_arguments_that_cannot_work_are_named(options, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        keras_cbvit.export_model(tiny(depth=1), tmp_path / "export", **options)
    assert not [*tmp_path.iterdir()]


@pytest.mark.any_backend
def test_what_is_missing_is_named_with_the_command_that_installs_it(tmp_path):
    if importlib.util.find_spec("openvino"):
        pytest.skip("OpenVINO is here")
    with pytest.raises(ImportError, match="pip install openvino"):
        keras_cbvit.export_model(tiny(depth=1), tmp_path / "export", "openvino")


@pytest.mark.any_backend
def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="use a folder that does not"):
        keras_cbvit.export_model(tiny(depth=1), tmp_path, "torch")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.any_backend
def test_several_outputs_are_refused(tmp_path):
    vit = tiny(depth=4, classes=None, include_top=False, pooling=None)
    pyramid = keras_cbvit.feature_pyramid(vit, range(4))
    with pytest.raises(ValueError, match="one output"):
        keras_cbvit.export_model(pyramid, tmp_path / "export", "torch")


@pytest.mark.any_backend
@QUANTIZED_FILES
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
def test_models_that_keras_has_quantized_are_refused(mode, tmp_path):
    model = tiny(depth=1)
    model.quantize(mode)
    with pytest.raises(ValueError, match="before quantization"):
        keras_cbvit.export_model(model, tmp_path / "export", "torch")


@pytest.mark.any_backend
def test_a_process_that_is_killed_says_so(tmp_path, monkeypatch):
    """Without memory, the system kills a process, whose last line may be any."""
    run = subprocess.run
    code = "import os, signal, sys; print('saving', file=sys.stderr, flush=True); "
    code += "os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(
        subprocess, "run", lambda command, **how: run([command[0], "-c", code], **how)
    )
    monkeypatch.setattr(of_models.backend, "is_on_cpu", lambda: False)
    with pytest.raises(ValueError, match="was killed by SIGKILL, perhaps for lack"):
        keras_cbvit.export_model(tiny(depth=1), tmp_path / "export", OWN)
    assert not [*tmp_path.iterdir()]
