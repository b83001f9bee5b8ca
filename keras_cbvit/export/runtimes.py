"""Exported models in the runtimes they are for, on a CPU and without Keras.

Each function loads what a `keras_cbvit.export.writers` function has written. It gives a
function from images, float32 of shape `(batch, height, width, channels)`, to the
predictions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np

Runtime: TypeAlias = Callable[[np.ndarray], np.ndarray]


def load_torch(path: Path) -> Runtime:
    """PyTorch."""
    import torch

    module = torch.export.load(path).module()

    def predict(images):
        with torch.no_grad():
            return module(torch.from_numpy(images)).numpy()

    return predict


def load_onnx(path: Path) -> Runtime:
    """ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def load_openvino(path: Path) -> Runtime:
    """OpenVINO, in float32: some CPUs would compute in bfloat16 else."""
    import openvino

    precision = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", precision)
    return lambda images: compiled([images])[0]


def load_saved_model(path: Path) -> Runtime:
    """TensorFlow's loader."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return lambda images: loaded.serve(tf.constant(images)).numpy()


def load_litert(path: Path) -> Runtime:
    """LiteRT."""
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
    """JAX."""
    from jax import export

    exported = export.deserialize(bytearray(path.read_bytes()))
    return lambda images: np.asarray(exported.call(images))
