"""The export formats, with their writers and runtimes."""

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
    """An export format."""

    file: str
    """Name of the file or folder in the export folder."""
    backend: str
    """The Keras backend that writes it."""
    packages: tuple[str, ...]
    """pip packages for writing and running it, besides Keras. Their modules have the
    same names, with `_` for `-`."""
    write: Callable[[keras.Model, Path], None]
    """Writes a model, on `backend`."""
    load: Callable[[Path], Callable[[np.ndarray], np.ndarray]]
    """Loads a file as a function from images to predictions, without Keras."""


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
    """Returns a format by name and checks that its packages are installed.

    Args:
        name: a key of `FORMATS`.
        *packages: additional required pip packages.

    Raises:
        ValueError: if the format is unknown.
        ImportError: if a package is not installed.
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
            f"format={name!r} requires packages that are not installed; run pip "
            f"install {' '.join(missing)}."
        )
    return found
