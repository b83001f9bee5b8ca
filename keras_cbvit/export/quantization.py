"""int8 by the tools of the runtimes themselves, calibrated on images."""

import dataclasses
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np

BATCH = 32
"""Images that are calibrated on or compared at once."""
LEAST_AGREEMENT = 0.99
"""The share of images whose most probable class int8 must not change."""
LEAST_COMPARED = 100
"""Images that a share in whole percents takes. Of a UperNet the pixels are compared."""


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """A runtime's own tool."""

    packages: tuple[str, ...]
    """What it needs beside the format's, by the names pip knows."""
    quantize: Callable[[Path, np.ndarray], Iterator[None]]
    """Quantizes a file in place, calibrated on images: a generator that does it again
    at each step, each time with fewer products in int8."""

    def check(self, model: keras.Model, images: np.ndarray | None) -> None:
        """Raises a ValueError unless a model can be quantized with some images."""
        if images is None:
            raise ValueError("quantize='int8' needs images=... to calibrate with.")
        if getattr(model, "num_classes", None) is None:
            raise ValueError(
                "quantize='int8' is for models that classify, whose classes can be "
                "compared; this one gives features."
            )
        least = 2 * LEAST_COMPARED
        if len(model.output_shape) == 2 and len(images) < least:
            raise ValueError(
                f"quantize='int8' needs {least} images at least, half of them to "
                f"compare classes on; there are {len(images)}."
            )


def top1_agreement(
    model: keras.Model, run: Callable[[np.ndarray], np.ndarray], images: np.ndarray
) -> float:
    """The share of images, or of pixels, whose most probable class is the same."""
    same = []
    for batch in _batches(images):
        expected = keras.ops.convert_to_numpy(model(batch, training=False))
        same.append(expected.argmax(-1) == run(batch).argmax(-1))
    return float(np.concatenate(same).mean())


def _quantize_onnx(file, images):
    """ONNX Runtime's static quantization of the products with weights.

    Of the ways tried on the CIFAR-10 models in the package, this one changes the fewest
    predictions. Products of attention stay in float32, as do the first and the last
    one: of the patches and, in a classifier, of the head. Activations and weights are
    unsigned: with signed weights a CPU without VNNI adds up pairs of products in 16
    bits, which saturates; that alone changed 7 % of the classes. At each step the
    smallest weights go back to float32: the attention's projection first, then queries,
    keys and values, so that the MLPs alone are left.
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
            node.name: sizes.get(node.input[1], 0)  # 0 of two activations
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
    """NNCF's quantization, for OpenVINO.

    As for ONNX Runtime, the first and the last product stay in float32. Weights get 7
    bits (`OverflowFix`), which does not saturate without VNNI either.
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
    # Not onto the file itself, whose weights are still mapped into memory.
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
