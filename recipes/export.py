"""Export a model to other runtimes and verify its predictions there.

    python -m recipes.export vitcb_mini.cifar10 --to onnx openvino litert
    python -m recipes.export my_vit.keras --to onnx --quantize int8 --images photos

Each format gets a folder in --out, with a model.json that documents inputs and outputs.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

_FORMATS = Literal["onnx", "openvino", "litert", "saved_model", "torch", "stablehlo"]


@dataclasses.dataclass(frozen=True)
class Exports:
    """The model to export, the formats, and the output folder."""

    model: tyro.conf.Positional[str]
    """Name of published weights, a .keras file, or a run folder."""
    to: tuple[_FORMATS, ...]
    """Formats to export to."""
    out: Path = Path("exported")
    """Output folder; each format gets a subfolder."""
    quantize: Literal["float16", "int8"] | None = None
    """Precision to quantize to: float16, or int8 by the runtime's own tool, which
    calibrates on one half of --images and is verified on the other half."""
    images: str | None = None
    """Images for calibration and verification: a folder of images, or a data set as
    for --dataset of `recipes.train`, whose training images are used; random images if
    not given."""
    limit: int = 512
    """Maximum number of images, taken at even intervals."""
    image_size: tuple[int, int] | None = None
    """Height and width of the images in pixels, for a model that accepts any size."""
    data_dir: str | None = None
    """Folder of the TFDS data sets."""
    license: str | None = None
    """SPDX identifier of the weights' license; the license of the published weights
    if not given."""


def export(options):
    """Runs `Exports`: writes the folders and prints a table.

    Returns:
        The `keras_cbvit.Export` of each format.

    Raises:
        ValueError: if the model cannot be exported, or its predictions differ in the
            other runtime.
        OSError: if the model or an image does not exist, or a file cannot be written.
    """
    import keras_cbvit
    from keras_cbvit.pretrained.publishing import preprocessing_of
    from keras_cbvit.pretrained.sources import find_record

    from .evaluation.models import is_published, load_model

    if not options.to:
        raise ValueError("--to requires a format, for instance --to onnx.")
    model = load_model(options.model)
    license, how = options.license, preprocessing_of(model)
    if is_published(options.model):
        record = find_record(options.model)
        license, how = license or record.license, record.preprocessing
    images = None
    if options.images is not None:
        images = _images(model, options, how)
    exports = []
    try:
        for format in options.to:
            exports.append(
                keras_cbvit.export_model(
                    model,
                    options.out / format,
                    format,
                    quantize=options.quantize,
                    images=images,
                    license=license,
                    crop_fraction=how.crop_fraction,
                )
            )
    finally:  # print the table even if a later format fails
        if exports:
            print(_table(exports))
    return exports


def _table(exports):
    from .tables import markdown_table

    shapes = [*exports[0].differences]
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
    return markdown_table(titles, rows)


def _images(model, options, how):
    """Loads images as model inputs, float32."""
    from keras_cbvit.images import normalize, preprocess

    from .data.folders import Contents
    from .data.sources import load_dataset
    from .evaluation.classifiers import size_of
    from .options.classification import Data

    if options.limit < 1:
        raise ValueError(f"limit={options.limit} must be at least 1.")
    size = size_of(options.model, model, options.image_size)
    how = dataclasses.replace(how, image_size=list(size))
    if Path(options.images).is_dir():
        paths = _evenly(Contents(options.images).images_in(options.images), options)
        found = np.stack([preprocess(path, how, path) for path in paths])
    else:
        data = Data(
            dataset=options.images,
            data_dir=options.data_dir,
            crop_fraction=how.crop_fraction,
        )
        data = dataclasses.replace(data, image_size=size)
        images = _evenly(load_dataset(data).train.images, options)
        found = normalize(np.stack(images), how)
    return found.astype("float32")


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
