"""Exports a model for other runtimes; each file is run there and compared.

    python -m recipes.export vitcb_mini.cifar10 --to onnx openvino litert
    python -m recipes.export my_vit.keras --to onnx --quantize int8 --images photos

Each format gets a folder in --out, with a model.json that says how to use the model.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

_FORMATS = Literal["onnx", "openvino", "litert", "saved_model", "torch", "stablehlo"]


@dataclasses.dataclass(frozen=True)
class Exports:
    """What is exported, what for and where to."""

    model: tyro.conf.Positional[str]
    """The name of published weights, a .keras file, or a run folder."""
    to: tuple[_FORMATS, ...]
    """The formats."""
    out: Path = Path("exported")
    """The folder that the folders of the formats go into."""
    quantize: Literal["float16", "int8"] | None = None
    """float16, or int8 by the runtime's own tool, calibrated on --images."""
    images: str | None = None
    """A folder of images to compare on, or a set as --on of `recipes.evaluate`; random
    images if not given."""
    limit: int = 512
    """How many of the images at most, evenly from the first to the last."""
    image_size: tuple[int, int] | None = None
    """Height and width of the images, for a model that takes any."""
    data_dir: str | None = None
    """Where TFDS keeps its data sets."""
    license: str | None = None
    """SPDX identifier of the weights' license; that of published weights if not
    given."""


def export(options):
    """Runs `Exports`: writes the folders and prints a table.

    Returns:
        The `keras_cbvit.Export` of each format.

    Raises:
        ValueError: if the model cannot be exported, or predicts something else there.
        OSError: if the model or an image is not there, or a file cannot be written.
    """
    import keras_cbvit
    from keras_cbvit.pretrained.sources import find_record

    from .evaluation.models import is_published, load_model
    from .tables import markdown_table

    model = load_model(options.model)
    license, crop_fraction = options.license, 1.0
    if is_published(options.model):
        record = find_record(options.model)
        license = license or record.license
        crop_fraction = record.preprocessing.crop_fraction
    images = None
    if options.images is not None:
        images = _images(model, options, crop_fraction)
    exports = [
        keras_cbvit.export_model(
            model,
            options.out / format,
            format,
            quantize=options.quantize,
            images=images,
            license=license,
            crop_fraction=crop_fraction,
        )
        for format in options.to
    ]
    shapes = [*exports[0].differences] if exports else []
    rows = [
        [
            str(each.file),
            f"{each.bytes / 1e6:,.2f} MB",
            *(f"{difference:.1e}" for difference in each.differences.values()),
            None if each.agreement is None else f"{each.agreement:.2%}",
        ]
        for each in exports
    ]
    titles = ["File", "Size", *(f"difference, {s}" for s in shapes), "same class"]
    print(markdown_table(titles, rows))
    return exports


def _images(model, options, crop_fraction):
    """Images as the model takes them, float32 of values 0-255."""
    from keras_cbvit.images import decode, fit

    from .data.folders import Contents
    from .evaluation.classifiers import size_of
    from .evaluation.sets import data_of, load_set

    if options.limit < 1:
        raise ValueError(f"limit={options.limit} must be at least 1.")
    size = size_of(options.model, model, options.image_size)
    if Path(options.images).is_dir():
        paths = _evenly(Contents(options.images).images_in(options.images), options)
        found = [fit(decode(p, p), size, crop_fraction) for p in paths]
    else:
        data = data_of(options.images)
        data = dataclasses.replace(
            data,
            data_dir=options.data_dir,
            train_split=data.test_split,
            image_size=size,
        )
        found = _evenly(load_set(options.images, data).test.images, options)
    return np.stack(found).astype("float32")


def _evenly(images, options):
    number = min(options.limit, len(images))
    return [images[i * len(images) // number] for i in range(number)]


def main(arguments=None):
    from .commands import parse, report_errors

    options = parse("export", Exports, __doc__, arguments)
    with report_errors():
        export(options)


if __name__ == "__main__":
    main()
