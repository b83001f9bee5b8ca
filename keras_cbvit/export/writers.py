"""From a model to a file of another runtime, each on the backend that can write it."""

import warnings
from pathlib import Path
from typing import Any

import keras

from keras_cbvit.models.inference import patch_size_of

IMAGES, PREDICTIONS = "images", "predictions"
"""The names of the input and the output, where a format has names."""
LEAST = 4
"""Patches along a side of images of any size. A UperNet's coarsest map of fewer has one
row, which torch and JAX would make another program of."""


def write_torch(model: keras.Model, path: Path) -> None:
    """Writes PyTorch's `ExportedProgram` (`.pt2`)."""
    import torch

    torch.export.save(program(model), path)


def write_onnx(model: keras.Model, path: Path) -> None:
    """Writes ONNX, by PyTorch's exporter.

    Keras's own export from torch has a fixed batch, that from TensorFlow loses the
    constants of `Normalization` (docs/export.md).
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program(model),
            input_names=[IMAGES],
            output_names=[PREDICTIONS],
            dynamic_shapes={IMAGES: {0: "batch"}},  # its name alone
            external_data=False,
            verbose=False,
        )
    assert exported is not None
    exported.save(path)


def write_openvino(model: keras.Model, path: Path) -> None:
    """Writes OpenVINO's IR: `path`, and the weights beside it (`.bin`)."""
    import openvino

    found = openvino.convert_model(program(model))
    found.inputs[0].get_tensor().set_names({IMAGES})
    found.outputs[0].get_tensor().set_names({PREDICTIONS})
    openvino.save_model(found, path, compress_to_fp16=False)


def write_saved_model(model: keras.Model, path: Path) -> None:
    """Writes TensorFlow's SavedModel, a folder."""
    model.export(path, format="tf_saved_model", verbose=False)


def write_litert(model: keras.Model, path: Path) -> None:
    """Writes LiteRT, once TensorFlow Lite (`.tflite`)."""
    model.export(path, format="litert", verbose=False)


def write_stablehlo(model: keras.Model, path: Path) -> None:
    """Writes StableHLO, as `jax.export` serializes it, for CPUs, GPUs and TPUs."""
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
    """A model as an `ExportedProgram`, of any number of images.

    Where images may be of any size, so may the program's, from `LEAST` patches on.
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
