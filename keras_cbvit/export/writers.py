"""Writers of the export formats, each for the backend that supports it."""

import warnings
from pathlib import Path
from typing import Any

import keras

from keras_cbvit.models.inference import patch_size_of

IMAGES, PREDICTIONS = "images", "predictions"
"""Names of the input and the output, in formats with names."""
LEAST = 4
"""Minimum patches along a side for images of any size. With fewer, a UperNet's coarsest
map has one row, for which torch and JAX trace another program."""


def write_torch(model: keras.Model, path: Path) -> None:
    """Writes PyTorch's `ExportedProgram` (`.pt2`)."""
    import torch

    torch.export.save(program(model), path)


def write_onnx(model: keras.Model, path: Path) -> None:
    """Writes ONNX with PyTorch's exporter.

    Keras's export on torch fixes the batch size, and on TensorFlow it loses the
    constants of `Normalization` (docs/export.md).
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program(model),
            input_names=[IMAGES],
            output_names=[PREDICTIONS],
            dynamic_shapes={IMAGES: {0: "batch"}},  # only names the axis
            external_data=False,
            verbose=False,
        )
    assert exported is not None
    exported.save(path)


def write_openvino(model: keras.Model, path: Path) -> None:
    """Writes OpenVINO IR: `path`, and a `.bin` file with the weights beside it."""
    import openvino

    found = openvino.convert_model(program(model))
    found.inputs[0].get_tensor().set_names({IMAGES})
    found.outputs[0].get_tensor().set_names({PREDICTIONS})
    openvino.save_model(found, path, compress_to_fp16=False)


def write_saved_model(model: keras.Model, path: Path) -> None:
    """Writes a TensorFlow SavedModel, a folder."""
    model.export(path, format="tf_saved_model", verbose=False)


def write_litert(model: keras.Model, path: Path) -> None:
    """Writes LiteRT, formerly TensorFlow Lite (`.tflite`)."""
    model.export(path, format="litert", verbose=False)


def write_stablehlo(model: keras.Model, path: Path) -> None:
    """Writes StableHLO, serialized by `jax.export`, for CPUs, GPUs and TPUs."""
    import jax
    from jax import export

    trained = [weight.value for weight in model.trainable_variables]
    others = [weight.value for weight in model.non_trainable_variables]

    @jax.jit
    def predict(images):
        return model.stateless_call(trained, others, images, training=False)[0]

    patch = patch_size_of(model) or 1
    _, height, width, channels = model.input_shape
    rows, columns = height or f"{patch}*rows", width or f"{patch}*columns"
    sides = (("rows", height), ("columns", width))
    symbolic = export.symbolic_shape(
        f"batch, {rows}, {columns}, {channels}",
        constraints=[f"{name} >= {LEAST}" for name, side in sides if side is None],
    )
    images = jax.ShapeDtypeStruct(symbolic, "float32")
    exported = export.export(predict, platforms=("cpu", "cuda", "tpu"))(images)
    path.write_bytes(exported.serialize())


def program(model: keras.Model) -> Any:
    """Traces a model to an `ExportedProgram` with a dynamic batch size.

    If the model takes images of any size, so does the program, from `LEAST` patches per
    side.
    """
    import torch

    class Inference(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model(images, training=False)

    patch, shape = patch_size_of(model) or 1, list(model.input_shape)
    shape[0], dynamic = 3, {0: torch.export.Dim("batch")}
    for axis, name in ((1, "rows"), (2, "columns")):
        if shape[axis] is None:
            dynamic[axis] = patch * torch.export.Dim(name, min=LEAST, max=1 << 12)
            shape[axis] = patch * (LEAST + 2 * axis)
    images = torch.zeros(*shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(
            Inference().eval(), (images,), dynamic_shapes={IMAGES: dynamic}
        )
