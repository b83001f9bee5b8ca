"""Benchmark of exported models: differences, sizes, latencies, int8 accuracy."""

import dataclasses
import functools
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from ..machine import machine_info
from ..tables import markdown_table

CLASSIFIERS = ("vit_mini.cifar10", "vitcb_mini.cifar10", "vitcbs_mini.cifar10")
BATCHES = (1, 32)
PRECISIONS = ("float32", "float16", "int8")


@dataclasses.dataclass(frozen=True)
class Runtimes:
    """Benchmark exported models in their runtimes: size, latency, accuracy."""

    models: tuple[str, ...] = ("vitcb_ti", "vitcb_s")
    """Names from `list_models()`, with random weights, for sizes and latencies."""
    formats: tuple[str, ...] = (
        "onnx",
        "openvino",
        "litert",
        "saved_model",
        "torch",
        "stablehlo",
    )
    """Formats to export to."""
    classifiers: tuple[str, ...] = CLASSIFIERS
    """Names of published weights to quantize and evaluate on CIFAR-10."""
    data_dir: str | None = None
    """Folder of the TFDS data sets."""
    calibration: int = 2000
    """Number of training images for int8: half for calibration, half to verify."""
    images: int = 10_000
    """Maximum number of test images."""
    repeats: int = 5
    """Number of measurements of each latency, after one that is not counted."""
    json: Path | None = None
    """JSON file for all results."""

    def measure(self):
        """Runs the benchmark; returns the results that `--json` saves.

        Raises:
            ValueError: if a number is not positive, or a model cannot be exported.
        """
        for name in ("calibration", "images", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        result = {
            **machine_info(),
            "options": dataclasses.asdict(self),
            "versions": {"python": platform.python_version()},
        }
        result["latencies"] = [
            self._latencies(name, format, result["versions"])
            for name in self.models
            for format in self.formats
        ]
        result["accuracies"] = (
            self._accuracies(result["versions"]) if self.classifiers else []
        )
        return result

    def _latencies(self, name, format, versions):
        """Measures a model in a runtime; adds its packages' versions to `versions`."""
        import keras_cbvit
        from keras_cbvit.export.formats import FORMATS

        model = keras_cbvit.create_model(name)
        with tempfile.TemporaryDirectory() as folder:
            export = keras_cbvit.export_model(model, Path(folder) / "export", format)
            versions |= _versions_of(export)
            run = FORMATS[format].load(export.file)
            seconds = {}
            for batch in BATCHES:
                shape = (batch, *model.input_shape[1:])
                images = np.random.default_rng(0).uniform(0, 255, shape)
                images = images.astype("float32")
                run(images)
                seconds[batch] = [_seconds(run, images) for _ in range(self.repeats)]
        return {
            "model": name,
            "format": format,
            "bytes": export.bytes,
            "difference": max(export.differences.values()),
            "seconds": seconds,
        }

    def _accuracies(self, versions):
        """Evaluates the published classifiers on CIFAR-10 in each precision."""
        import keras_cbvit
        from keras_cbvit.export.model import predictions
        from keras_cbvit.export.quantization import QUANTIZERS

        train, test = self._cifar10()
        test = test.first(self.images)
        images = np.asarray(test.images, "float32")
        found = []
        for name in self.classifiers:
            model = keras_cbvit.load_model(name)
            expected = _classes(functools.partial(predictions, model), images)
            found += [
                {"model": name, "format": format, "precision": precision}
                | self._accuracy(
                    model,
                    format,
                    precision,
                    train,
                    images,
                    expected,
                    test.labels,
                    versions,
                )
                for format in QUANTIZERS
                for precision in PRECISIONS
            ]
        return found

    def _accuracy(
        self, model, format, precision, train, images, expected, labels, versions
    ):
        """Evaluates a classifier in a runtime, or returns why its export was refused.

        The predicted classes are compared with the labels of the test images and with
        the `expected` classes, predicted by the Keras model.
        """
        import keras_cbvit
        from keras_cbvit.export.formats import FORMATS

        quantize = None if precision == "float32" else precision
        with tempfile.TemporaryDirectory() as folder:
            try:
                export = keras_cbvit.export_model(
                    model,
                    Path(folder) / "export",
                    format,
                    quantize=quantize,
                    images=train,
                )
            except ValueError as error:
                return {"refused": str(error)}
            versions |= _versions_of(export)
            run = FORMATS[format].load(export.file)
            classes = _classes(run, images)
        return {
            "top1": float((classes == labels).mean()),
            "bytes": export.bytes,
            "agreement": float((classes == expected).mean()),
        }

    def _cifar10(self):
        """Returns calibration images, at even intervals, and the test split."""
        from ..data.sources import load_dataset
        from ..options.classification import Data

        data = Data(dataset="cifar10", data_dir=self.data_dir, image_size=(32, 32))
        dataset = load_dataset(data)
        train = dataset.train.images
        number = min(self.calibration, len(train))
        chosen = [train[i * len(train) // number] for i in range(number)]
        return np.stack(chosen).astype("float32"), dataset.test

    def markdown(self, result):
        """Formats the result as tables with the conditions of the measurement."""
        plural = [f"{batch} image{'s' * (batch > 1)}" for batch in BATCHES]
        titles = ["Model", "Format", "Size", "Greatest difference", *plural]
        rows = [_latency_row(each) for each in result["latencies"]]
        lines = [markdown_table(titles, rows), ""] if rows else []
        if result["accuracies"]:
            titles = ["Model", "Format", "Precision", "Size", "Top-1, %"]
            titles.append("same class as the model, %")
            rows = [_accuracy_row(each) for each in result["accuracies"]]
            lines += [markdown_table(titles, rows), ""]
        versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        machine = f"{result['cpu']}, {result['cores']} cores; {result['date']}"
        lines.append(f"{machine}. Medians of {self.repeats} runs. {versions}.")
        return "\n".join(lines)


def _versions_of(export):
    return json.loads((export.folder / "model.json").read_text())["versions"]


def _latency_row(found):
    seconds = (statistics.median(found["seconds"][batch]) for batch in BATCHES)
    return [
        found["model"],
        found["format"],
        f"{found['bytes'] / 1e6:.1f} MB",
        f"{found['difference']:.1e}",
        *(f"{1e3 * each:.1f} ms" for each in seconds),
    ]


def _accuracy_row(found):
    cells = [found["model"], found["format"], found["precision"]]
    if "refused" in found:
        return [*cells, "refused"]
    return [
        *cells,
        f"{found['bytes'] / 1e6:.2f} MB",
        f"{100 * found['top1']:.2f}",
        f"{100 * found['agreement']:.2f}",
    ]


def _classes(run, images):
    """Returns the most probable class of each image."""
    batches = (images[i : i + 100] for i in range(0, len(images), 100))
    return np.concatenate([run(batch).argmax(-1) for batch in batches])


def _seconds(run, images):
    start = time.perf_counter()
    run(images)
    return time.perf_counter() - start
