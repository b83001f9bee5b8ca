"""The formats of exported models: what writes each, and what runs it."""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from keras_cbvit.arguments import choice
from keras_cbvit.export import runtimes, writers


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of exported file."""

    file: str
    """What the file, or folder, is called in the folder of the export."""
    backend: str
    """The Keras backend that writes it."""
    packages: tuple[str, ...]
    """What writing and running it needs beside Keras, by the names pip knows. With `_`
    for `-` they are the names that Python imports them by."""
    write: Callable[[keras.Model, Path], None]
    """Writes a model; runs on the `backend`."""
    load: Callable[[Path], Callable[[np.ndarray], np.ndarray]]
    """The runtime's function from images to predictions, without Keras."""


FORMATS = {
    "torch": Format(
        "model.pt2", "torch", ("torch",), writers.write_torch, runtimes.load_torch
    ),
    "onnx": Format(
        "model.onnx",
        "torch",
        ("torch", "onnx", "onnxscript", "onnxruntime"),
        writers.write_onnx,
        runtimes.load_onnx,
    ),
    "openvino": Format(
        "model.xml",
        "torch",
        ("torch", "openvino"),
        writers.write_openvino,
        runtimes.load_openvino,
    ),
    "saved_model": Format(
        "saved_model",
        "tensorflow",
        ("tensorflow",),
        writers.write_saved_model,
        runtimes.load_saved_model,
    ),
    "litert": Format(
        "model.tflite",
        "tensorflow",
        ("tensorflow", "ai-edge-litert"),
        writers.write_litert,
        runtimes.load_litert,
    ),
    "stablehlo": Format(
        "model.stablehlo",
        "jax",
        ("jax", "flatbuffers"),
        writers.write_stablehlo,
        runtimes.load_stablehlo,
    ),
}


def format_of(name: str, *packages: str) -> Format:
    """A format by its name, if it can be written and run here.

    Args:
        name: a key of `FORMATS`.
        *packages: what else is needed, by the names pip knows.

    Raises:
        ValueError: if there is no such format.
        ImportError: if a package is missing, with the command that installs it.
    """
    choice("format", name, [*FORMATS])
    found = FORMATS[name]
    missing = [
        package
        for package in (*found.packages, *packages)
        if importlib.util.find_spec(package.replace("-", "_")) is None
    ]
    if missing:
        raise ImportError(
            f"format={name!r} needs packages that are not installed: pip install "
            f"{' '.join(missing)}."
        )
    return found
