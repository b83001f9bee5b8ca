"""Exports models to other runtimes and verifies the files there."""

import dataclasses
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cbvit import backend
from keras_cbvit.arguments import choice, number_between, refuse
from keras_cbvit.export.formats import Format, format_of
from keras_cbvit.export.quantization import LEAST_AGREEMENT, QUANTIZERS, top1_agreement
from keras_cbvit.export.writers import LEAST
from keras_cbvit.files import whole_folder, write
from keras_cbvit.images import normalize
from keras_cbvit.internals import layers_within
from keras_cbvit.models.inference import patch_size_of
from keras_cbvit.pretrained.publishing import in_precision, preprocessing_of

METADATA = "model.json"
LIMITS = {"float32": 1e-4, "float16": 2e-2}
"""Tolerance of the predictions: absolute, or relative to the largest if that is over
1."""
BATCHES = (1, 3)
_PRECISIONS = ("float16", "int8")


@dataclasses.dataclass(frozen=True)
class Export:
    """An exported file and its differences from the model."""

    folder: Path
    file: Path
    """The file in the folder; for a SavedModel, a folder."""
    bytes: int
    """Size of all files of the model, without the JSON."""
    differences: dict[str, float]
    """Largest differences from the model's predictions, by the shape of the images,
    such as `"3x224x224x3"`."""
    agreement: float | None
    """For int8, the fraction of images with the same top-1 class, measured on images
    that were not used for calibration."""


def export_model(
    model: keras.Model,
    folder: str | os.PathLike,
    format: str,
    *,
    quantize: str | None = None,
    images: np.ndarray | None = None,
    license: str | None = None,
    crop_fraction: float = 1.0,
) -> Export:
    """Exports a model to another runtime, runs it there and compares the predictions.

    The file takes batches of any size, of images like the model's: float32 with values
    0–255 if the model normalizes, and of any height and width if the model allows it.
    If another backend has to write the format, a subprocess does. `model.json` beside
    the file contains class names, preprocessing, license, versions and the differences;
    an ONNX file also has them in its metadata. The folder is written atomically.

    Args:
        model: a functional model from images to one output: a `VisionTransformer`, a
            `SegmentationModel`, or another model with layers of this package. It is
            exported in float32, whatever precision it was trained in.
        folder: the folder to write; must not exist, or be empty.
        format: `"onnx"`, `"openvino"`, `"litert"`, `"saved_model"`, `"torch"` (an
            `ExportedProgram`) or `"stablehlo"`.
        quantize: `"float16"` for weights and computation in float16; `"int8"` for
            quantization by ONNX Runtime or OpenVINO, calibrated on `images`.
        images: at least 3 images to compare predictions on, as inputs of the model, of
            shape `(batch, height, width, channels)`. Defaults to random images. int8
            requires them, at least 200 for a classifier: half calibrate, the other half
            are compared.
        license: SPDX identifier of the weights' license.
        crop_fraction: the fraction of an image that a center crop keeps, from 0.01 to
            1.

    Returns:
        An `Export`.

    Raises:
        ValueError: if an argument is invalid, the runtime cannot run the file, its
            predictions differ by more than 1e-4 (2e-2 for float16), or int8 changes the
            top-1 class of more than 1 % of the compared images.
        ImportError: if a package is not installed.
        FileExistsError: if the folder is not empty.
        OSError: if the file cannot be written.
    """
    precision = "float32"
    if quantize is not None:
        precision = choice("quantize", quantize, [*_PRECISIONS])
    quantizer = QUANTIZERS.get(format) if precision == "int8" else None
    found = format_of(format, *(quantizer.packages if quantizer else ()))
    _check_model(model)
    crop_fraction = number_between(0.01, 1)("crop_fraction", crop_fraction)
    if not isinstance(license, str | None):
        refuse("license", license, "must be an SPDX identifier, such as 'MIT'.")
    if precision == "int8":
        if quantizer is None:
            raise ValueError(
                f"format={format!r} does not support int8; use "
                f"{' or '.join(QUANTIZERS)}."
            )
        quantizer.check(model, images)
    images = _images(model, images)
    packages = (*found.packages, *(quantizer.packages if quantizer else ()))
    with whole_folder(folder) as complete:
        file = complete / found.file
        exported = _cast(model, "float16" if precision == "float16" else "float32")
        _write(exported, format, found, file)
        differences, agreement, compared = {}, None, images[1::2]
        if quantizer:
            try:
                for _ in quantizer.quantize(file, images[::2]):
                    agreement = top1_agreement(model, found.load(file), compared)
                    if agreement >= LEAST_AGREEMENT:
                        break
            except OSError:
                raise
            except Exception as error:  # each tool raises its own types
                raise ValueError(
                    f"int8 for {format!r} failed; nothing was written: "
                    f"{_first_line(error)}"
                ) from error
        metadata = {
            "format": format,
            "file": found.file,
            "precision": precision,
            **_model_metadata(model, crop_fraction, license),
            "versions": _versions(packages),
        }
        if format == "onnx":
            _embed(file, metadata)
        try:
            run = found.load(file)
            for batch in _batches(model, images):
                shape = "x".join(map(str, batch.shape))
                differences[shape] = _difference(model, run, batch)
        except Exception as error:  # each runtime raises its own types
            raise ValueError(
                f"The runtime of {format!r} cannot run the model; nothing was "
                f"written: {_first_line(error)}"
            ) from error
        _check(differences, agreement, precision, format)
        metadata |= {"differences": differences, "agreement": agreement}
        if quantizer:
            metadata["compared_images"] = len(compared)
        text = json.dumps(metadata, indent=2, allow_nan=False)
        files = (each for each in complete.rglob("*") if each.is_file())
        size = sum(each.stat().st_size for each in files)
        write(complete / METADATA, f"{text}\n".encode())
    folder = Path(folder)
    return Export(folder, folder / found.file, size, differences, agreement)


def _check_model(model):
    if not isinstance(model, keras.Model) or len(getattr(model, "outputs", [])) != 1:
        raise ValueError(
            "model must be a functional keras.Model from images to one output, such as "
            "from ViTCB or UperNet_ViTCB."
        )
    if any(layer.quantization_mode for layer in layers_within(model)):
        raise ValueError(
            "The model is quantized by Keras, which other runtimes do not support; "
            "export it before quantization, with quantize='int8'."
        )


def _images(model, images):
    """Validates images, or generates random ones, as float32 inputs of the model."""
    if images is None:
        least = LEAST * (patch_size_of(model) or 1)
        size = [side or least for side in model.input_shape[1:3]]
        rows, columns = (-(-side // 8) for side in size)
        # 8x8 squares plus noise: shapes and texture.
        random = np.random.default_rng(0)
        images = random.uniform(0, 255, (3, rows, columns, model.input_shape[3]))
        images = images.repeat(8, 1).repeat(8, 2)[:, : size[0], : size[1]]
        images = (images + random.uniform(0, 255, images.shape)) / 2
        how = preprocessing_of(model)
        if len(how.mean) == images.shape[3]:  # else the defaults do not apply
            images = normalize(images, how)
    images = np.asarray(images, "float32")
    expected = (None, *model.input_shape[1:])
    fits = images.ndim == 4 and all(
        side in (None, found)
        for side, found in zip(expected, images.shape, strict=True)
    )
    if not fits or len(images) < max(BATCHES):
        raise ValueError(
            f"images must have shape {expected}, at least {max(BATCHES)} of them, not "
            f"{images.shape}."
        )
    return images


def _batches(model, images):
    """Yields batches of one and three images, and of another size if allowed."""
    yield from (images[:number] for number in BATCHES)
    if None in model.input_shape[1:3]:
        patch = patch_size_of(model) or 1
        pads = [
            (0, n * patch if side is None else 0)
            for n, side in zip((1, 2), model.input_shape[1:3], strict=True)
        ]
        yield np.pad(images[:2], [(0, 0), *pads, (0, 0)], mode="edge")


def _cast(model, dtype):
    """Returns the model if it has a dtype, else a copy with it."""
    policies = {(e.compute_dtype, e.variable_dtype) for e in layers_within(model)}
    return model if policies == {(dtype, dtype)} else in_precision(model, dtype)


def _write(model, format, found: Format, file):
    """Writes a model in this process, or in a CPU process of another backend."""
    version = f"Keras {keras.__version__} on {found.backend}"
    message = f"{version} cannot write the model as {format!r}"
    if keras.backend.backend() == found.backend and backend.is_on_cpu():
        try:
            return found.write(model, file)
        except OSError:
            raise
        except Exception as error:  # each exporter raises its own types
            raise ValueError(f"{message}: {_first_line(error)}") from error
    environment = {
        **os.environ,
        "KERAS_BACKEND": found.backend,
        "CUDA_VISIBLE_DEVICES": "",
        "KERAS_TORCH_DEVICE": "cpu",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    with tempfile.TemporaryDirectory() as temporary:
        saved, failure = Path(temporary) / "model.keras", Path(temporary) / "failure"
        model.save(saved)
        module = "keras_cbvit.export.write"
        paths = map(str, (saved, file, failure))
        command = [sys.executable, "-m", module, format, *paths]
        process = subprocess.run(
            command, env=environment, capture_output=True, text=True
        )
        error = json.loads(failure.read_text()) if failure.exists() else {}
    if error.get("of_the_disk"):
        raise OSError(error["reason"])
    if process.returncode:
        reason = error.get("reason") or _failure_reason(process)
        raise ValueError(f"{message}: {_first_line(reason)}")


def _failure_reason(process):
    """Describes the failure of a process that wrote no reason."""
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return f"the process was killed by {name}, perhaps for lack of memory."
    lines = process.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {process.returncode}"


def _model_metadata(model, crop_fraction, license):
    """Returns the metadata that running a model requires."""
    names = getattr(model, "class_names", None)
    config = getattr(model, "own_config", None)
    return {
        "model": model.name,
        "architecture": config and {"class": type(model).__name__, **config},
        "input_shape": list(model.input_shape),
        "output_shape": list(model.output_shape),
        "preprocessing": dataclasses.asdict(preprocessing_of(model, crop_fraction)),
        "class_names": names and list(names),
        "license": license,
    }


def _versions(packages):
    own = sys.modules["keras_cbvit"].__version__  # it imports this module
    installed = importlib.metadata.packages_distributions()
    modules = ("keras", *(name.replace("-", "_") for name in packages))
    # A module's package may have another name, such as tensorflow-cpu, or none.
    names = [name for module in modules for name in installed.get(module, ())[:1]]
    versions = {name: importlib.metadata.version(name) for name in names}
    return {"keras_cbvit": own, **versions}


def _embed(file, metadata):
    """Adds metadata to an ONNX file."""
    import onnx

    proto = onnx.load(file)
    values = {key: json.dumps(value) for key, value in metadata.items()}
    onnx.helper.set_model_props(proto, values)
    onnx.save(proto, file)


def predictions(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Returns a model's predictions as a NumPy array."""
    return keras.ops.convert_to_numpy(model(images, training=False))


def _difference(model, run: Callable, images) -> float:
    expected, got = predictions(model, images), run(images)
    if got.shape != expected.shape:
        raise ValueError(f"its output has shape {got.shape}, not {expected.shape}.")
    largest = np.abs(got.astype("float32") - expected).max()
    return float(largest / max(1, np.abs(expected).max()))


def _check(differences, agreement, precision, format):
    if agreement is not None:
        if agreement < LEAST_AGREEMENT:
            raise ValueError(
                f"int8 for {format!r} keeps the top-1 class of {agreement:.1%} of the "
                f"images, less than {LEAST_AGREEMENT:.0%}; nothing was written."
            )
        return
    for shape, difference in differences.items():
        if not difference <= LIMITS[precision]:  # nor is NaN
            raise ValueError(
                f"The predictions of {format!r} differ from the model's by "
                f"{difference:.2g} on images of {shape}, more than "
                f"{LIMITS[precision]}; nothing was written."
            )


def _first_line(error: Any) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), repr(error))
