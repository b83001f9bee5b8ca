"""Runs exported models on a CPU, without Keras.

Each function loads a file from the corresponding function in
`keras_cbvit.export.writers` and returns a function from images, float32 of shape
`(batch, height, width, channels)`, to predictions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np

Runtime: TypeAlias = Callable[[np.ndarray], np.ndarray]


def load_torch(path: Path) -> Runtime:
    """Loads an `ExportedProgram` in PyTorch."""
    import torch

    module = torch.export.load(path).module()

    def predict(images):
        with torch.no_grad():
            return module(torch.from_numpy(images)).numpy()

    return predict


def load_onnx(path: Path) -> Runtime:
    """Loads an ONNX file in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def load_openvino(path: Path) -> Runtime:
    """Loads OpenVINO IR, in float32, since some CPUs default to bfloat16."""
    import openvino

    precision = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", precision)
    return lambda images: compiled([images])[0]


def load_saved_model(path: Path) -> Runtime:
    """Loads a SavedModel in TensorFlow."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return lambda images: loaded.serve(tf.constant(images)).numpy()


def load_litert(path: Path) -> Runtime:
    """Loads a `.tflite` file in LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    index = interpreter.get_input_details()[0]["index"]

    def predict(images):
        interpreter.resize_tensor_input(index, images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(index, images)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return predict


def load_stablehlo(path: Path) -> Runtime:
    """Loads StableHLO in JAX."""
    from jax import export

    exported = export.deserialize(bytearray(path.read_bytes()))
    return lambda images: np.asarray(exported.call(images))
