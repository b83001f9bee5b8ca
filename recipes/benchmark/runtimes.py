"""Exported models in their runtimes: difference, size, latency, accuracy of int8."""

import dataclasses
import functools
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from ..machine import run_on
from ..tables import markdown_table

CLASSIFIERS = ("vit_mini.cifar10", "vitcb_mini.cifar10", "vitcbs_mini.cifar10")
BATCHES = (1, 32)
PRECISIONS = ("float32", "float16", "int8")


@dataclasses.dataclass(frozen=True)
class Runtimes:
    """What exported models take and give, each in its runtime."""

    models: tuple[str, ...] = ("vitcb_ti", "vitcb_s")
    """Of `list_models()`, with random weights, for sizes and latencies."""
    formats: tuple[str, ...] = (
        "onnx",
        "openvino",
        "litert",
        "saved_model",
        "torch",
        "stablehlo",
    )
    classifiers: tuple[str, ...] = CLASSIFIERS
    """Published weights that are quantized and measured on CIFAR-10."""
    data_dir: str | None = None
    """Where TFDS keeps CIFAR-10."""
    calibration: int = 2000
    """Training images that int8 is made with: half of them to calibrate on."""
    images: int = 10_000
    """Test images at most."""
    repeats: int = 5
    """Measurements of each latency, after one that is not counted."""
    json: Path | None = None
    """File for all the numbers."""

    def measure(self):
        """Exports and measures; returns what `--json` writes.

        Raises:
            ValueError: if a number is not positive, or a model cannot be exported.
        """
        for name in ("calibration", "images", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        result = {
            **run_on(),
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
        """Of one model in one runtime; `versions` gets those of its packages."""
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
        """Of the published classifiers on CIFAR-10, in each precision they come in."""
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
        """Of one classifier in one runtime; why it is refused, if it is.

        Its classes are compared with the labels of the test images and with the classes
        that are `expected`, the model's own.
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
        """Training images to calibrate with, evenly taken, and the test split."""
        from ..data.sources import load_dataset
        from ..options.classification import Data

        data = Data(dataset="cifar10", data_dir=self.data_dir, image_size=(32, 32))
        dataset = load_dataset(data)
        train = dataset.train.images
        number = min(self.calibration, len(train))
        chosen = [train[i * len(train) // number] for i in range(number)]
        return np.stack(chosen).astype("float32"), dataset.test

    def markdown(self, result):
        """The result as tables with what it was measured on."""
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
    """The most probable class of each image."""
    batches = (images[i : i + 100] for i in range(0, len(images), 100))
    return np.concatenate([run(batch).argmax(-1) for batch in batches])


def _seconds(run, images):
    start = time.perf_counter()
    run(images)
    return time.perf_counter() - start
