"""Defects of Keras 3.15.1 that exports work around, each in a few lines.

`xfail(strict=True)`: a Keras that has mended one makes its test fail, and what works
around it in `keras_cbvit.export` can go.
"""

import keras
import numpy as np
import pytest

from keras_cbvit.export.runtimes import load_onnx, load_openvino, load_saved_model

pytest.importorskip("openvino", reason="the runtimes are not in this environment")
BACKEND = keras.backend.backend()
IMAGES = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")


def defect(backend, what, *raises):
    """A test on one backend that fails as long as Keras has the defect."""

    def mark(test):
        only = pytest.mark.skipif(backend != BACKEND, reason=f"of {backend}")
        fails = pytest.mark.xfail(strict=True, reason=what, raises=raises or None)
        return pytest.mark.slow(only(fails(test)))

    return mark


def check(file, load, *layers, quantize=None):
    model = keras.Sequential([keras.Input((4,)), *layers])
    if quantize:
        model.quantize(quantize)
    formats = {".onnx": "onnx", ".xml": "openvino", "": "tf_saved_model"}
    # Keras exports nothing that was never called.
    expected = keras.ops.convert_to_numpy(model(IMAGES, training=False))
    model.export(str(file), format=formats[file.suffix], verbose=False)
    np.testing.assert_allclose(load(file)(IMAGES), expected, atol=1e-4)


@defect("tensorflow", "the constants of Normalization are inputs", ValueError)
def test_onnx_from_tensorflow_normalizes(tmp_path):
    pytest.importorskip("tf2onnx", reason="Keras writes ONNX from TensorFlow with it")
    layer = keras.layers.Normalization(mean=[1.0, 2, 3, 4], variance=[4.0] * 4)
    check(tmp_path / "model.onnx", load_onnx, layer)


@defect("torch", "a batch of one is in the file")
def test_onnx_from_torch_takes_any_batch(tmp_path):
    check(tmp_path / "model.onnx", load_onnx, keras.layers.LayerNormalization())


@defect("torch", "TensorFlow cannot trace torch")
def test_saved_models_are_written_from_torch(tmp_path):
    check(tmp_path / "model", load_saved_model, keras.layers.Dense(4))


@defect("tensorflow", "int8 is computed wrongly, without an error", AssertionError)
def test_int8_is_right_in_openvino(tmp_path):
    layers = [keras.layers.Dense(64), keras.layers.Dense(4)]
    check(tmp_path / "model.xml", load_openvino, *layers, quantize="int8")


@defect("jax", "OpenVINO does not know what JAX gives it")
def test_openvino_is_written_from_jax(tmp_path):
    check(tmp_path / "model.xml", load_openvino, keras.layers.Dense(4))


@defect("jax", "TensorFlow does not know erf as JAX writes it")
def test_saved_models_from_jax_compute_erf(tmp_path):
    """Of any model; `model.export` of this package's own models avoids it."""
    images = keras.Input((4,))
    model = keras.Model(images, keras.ops.erf(keras.layers.Dense(4)(images)))
    check(tmp_path / "model", load_saved_model, model)
