"""int8 quantization with the tools of the runtimes, calibrated on images."""

import dataclasses
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np

BATCH = 32
"""Batch size for calibration and comparison."""
LEAST_AGREEMENT = 0.99
"""Minimum fraction of images whose top-1 class int8 must keep."""
LEAST_COMPARED = 100
"""Minimum number of images to compare for a classifier. For a UperNet, pixels are
compared."""


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """The quantization tool of a runtime."""

    packages: tuple[str, ...]
    """Additional pip packages."""
    quantize: Callable[[Path, np.ndarray], Iterator[None]]
    """Quantizes a file in place, calibrated on images. A generator: each step repeats
    it with fewer products in int8."""

    def check(self, model: keras.Model, images: np.ndarray | None) -> None:
        """Raises a ValueError unless a model can be quantized with the images."""
        if images is None:
            raise ValueError("quantize='int8' requires images for calibration.")
        if getattr(model, "num_classes", None) is None:
            raise ValueError(
                "quantize='int8' requires a model with classes to compare; this model "
                "outputs features."
            )
        least = 2 * LEAST_COMPARED
        if len(model.output_shape) == 2 and len(images) < least:
            raise ValueError(
                f"quantize='int8' requires at least {least} images, half of them to "
                f"compare classes, not {len(images)}."
            )


def top1_agreement(
    model: keras.Model, run: Callable[[np.ndarray], np.ndarray], images: np.ndarray
) -> float:
    """Returns the fraction of images, or of pixels, with the same top-1 class."""
    same = []
    for batch in _batches(images):
        expected = keras.ops.convert_to_numpy(model(batch, training=False))
        same.append(expected.argmax(-1) == run(batch).argmax(-1))
    return float(np.concatenate(same).mean())


def _quantize_onnx(file, images):
    """Quantizes products with weights by ONNX Runtime's static quantization.

    The settings changed the fewest predictions of the package's CIFAR-10 models.
    Products of two activations (attention) stay in float32, as do the first and the
    last product: the patch embedding and the head of a classifier. Activations and
    weights are unsigned: with signed weights, a CPU without VNNI adds pairs of products
    in 16 bits, which saturates and changed 7 % of the classes. Each step reverts the
    smallest remaining weights to float32: first the attention's projection, then
    queries, keys and values, until only the MLPs are left.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Calibration(quantization.CalibrationDataReader):
        def __init__(self, name):
            self.inputs = ({name: batch} for batch in _batches(images))

        def get_next(self):
            return next(self.inputs, None)

    with tempfile.TemporaryDirectory() as temporary:
        prepared = Path(temporary) / file.name
        quant_pre_process(file, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        kinds = ["Gemm", "MatMul"]
        sizes = {weight.name: math.prod(weight.dims) for weight in graph.initializer}
        products = {
            node.name: sizes.get(node.input[1], 0)  # 0 for two activations
            for node in graph.node
            if node.op_type in kinds
        }
        _, *inner, _ = products
        for least in sorted({products[name] for name in inner} - {0}):
            quantization.quantize_static(
                prepared,
                file,
                Calibration(graph.input[0].name),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QUInt8,
                op_types_to_quantize=kinds,
                nodes_to_quantize=[name for name in inner if products[name] >= least],
                extra_options={"MatMulConstBOnly": True},
            )
            yield


def _quantize_openvino(file, images):
    """Quantizes with NNCF, for OpenVINO.

    As for ONNX Runtime, the first and the last product stay in float32. Weights use 7
    bits (`OverflowFix`), which do not saturate without VNNI.
    """
    import nncf
    import openvino

    model = openvino.Core().read_model(file)
    products = [
        operation.get_friendly_name()
        for operation in model.get_ordered_ops()
        if operation.get_type_name() == "MatMul"
    ]
    batches = [*_batches(images)]
    quantized = nncf.quantize(
        model,
        nncf.Dataset(batches),
        subset_size=len(batches),
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(names=[products[0], products[-1]]),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE
        ),
    )
    # Not to the file itself, whose weights are still memory-mapped.
    with tempfile.TemporaryDirectory(dir=file.parent) as temporary:
        openvino.save_model(
            quantized, Path(temporary) / file.name, compress_to_fp16=False
        )
        for each in Path(temporary).iterdir():
            os.replace(each, file.with_name(each.name))
    yield


def _batches(images: np.ndarray) -> Iterator[np.ndarray]:
    return (images[i : i + BATCH] for i in range(0, len(images), BATCH))


QUANTIZERS = {
    "onnx": Quantizer((), _quantize_onnx),
    "openvino": Quantizer(("nncf",), _quantize_openvino),
}
"""By format."""
