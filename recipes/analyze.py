"""Analyze trained models: attention, Λ, and cost.

    python -m recipes.analyze runs/cifar10/plain runs/cifar10/cb --on cifar10

Prints Markdown tables, and saves results.json and figures to a folder. Attention is
analyzed only if --on is given.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tyro

from keras_cbvit import SegmentationModel, analysis
from keras_cbvit.analysis.attention import encoder_blocks, token_grid
from keras_cbvit.files import write
from keras_cbvit.images import decode, fit

from . import figures
from .evaluation.classifiers import size_of
from .evaluation.models import load_model
from .evaluation.sets import data_of, load_set, with_options
from .tables import markdown_table
from .training.run_folder import git_commit, versions

# Labels of the statistics of `attention_statistics` and `scale_statistics`.
ATTENTION = {
    "entropy": "entropy of attention (nats)",
    "distance": "relative distance (sides of the image)",
    "jacobian_norm": "nuclear norm of the softmax's Jacobian",
}
FIGURES = (
    "softmax_jacobian.png",
    "attention.png",
    "scale_by_layer.png",
    "scales.png",
    "photo.png",
)
SCALE = {"ratio": "10 % over 90 % quantile of |λ|", "mean": "mean of Λ"}


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The models to analyze, the images, and the output folder."""

    models: tyro.conf.Positional[tuple[str, ...]]
    """Names of published weights, .keras files, or run folders."""
    on: str | None = None
    """Data set whose images are used to analyze attention, as for
    `recipes.evaluate`."""
    data_dir: str | None = None
    """Folder of the TFDS data sets."""
    test_split: str | None = None
    """TFDS split, or subfolder of an image folder; test if not given, except for the
    ImageNet sets, which have their own."""
    crop_fraction: float | None = None
    """Fraction of each side that the center crop keeps, 0 to 1; if not given, 0.875
    (DeiT's) for the ImageNet sets, else 1."""
    test_labels: Path | None = None
    """Text file of labels for a test folder without class folders, as in training."""
    image_size: tuple[int, int] | None = None
    """Height and width in pixels, for models that accept any size."""
    images: int = 1000
    """Number of images, taken from the data set at even intervals."""
    batch_size: int = 16
    """Number of images per batch; it does not affect the results."""
    photo: Path | None = None
    """Image on which to visualize the attention."""
    out: Path = Path("runs/analysis")
    """Folder for the results and figures."""


def analyze(options):
    """Runs an `Analysis`: prints the tables, writes results and figures.

    Returns:
        The dict that is saved as JSON. NaN, such as the ratio of a Λ that is all zero,
        becomes `None`.

    Raises:
        ValueError: if a model is not a classifier of this package, an option is
            invalid, or an image cannot be decoded.
        OSError: if a model, data set or image does not exist.
    """
    if not options.models:
        raise ValueError("Give at least one model to analyze.")
    if options.images < 1:
        raise ValueError(f"images={options.images} must be at least 1.")
    models = {name: load_model(name) for name in options.models}
    if upernets := [
        name for name, model in models.items() if isinstance(model, SegmentationModel)
    ]:
        raise ValueError(
            f"{upernets[0]} is a segmentation model, but only classifiers can be "
            "analyzed."
        )
    titles = dict(zip(models, figures.short_titles(models), strict=True))
    photos = {}
    if options.photo is not None:
        photos = {
            titles[n]: _load_photo(m, options.photo, options.image_size)
            for n, m in models.items()
        }
    found = {}
    for name, model in models.items():
        found[name] = _measure(model, options)
        print(f"## {name}\n")
        print("\n\n".join(_markdown(found[name])), end="\n\n")
    options.out.mkdir(parents=True, exist_ok=True)
    for figure in FIGURES:  # remove those of an earlier analysis of other models
        (options.out / figure).unlink(missing_ok=True)
    result = {
        "commit": git_commit(),
        "versions": versions(),
        "backend": keras.backend.backend(),
        "options": dataclasses.asdict(options),
        "models": found,
    }
    text = json.dumps(result, indent=2, default=str, allow_nan=False)
    write(options.out / "results.json", f"{text}\n".encode())
    scales = {titles[name]: _scales(model) for name, model in models.items()}
    named = {titles[name]: numbers for name, numbers in found.items()}
    _draw(named, scales, photos, options.out)
    print(f"Saved the results and figures to {options.out}.")
    return result


def _measure(model, options):
    """Computes all results of a model, as built-in Python types."""
    blocks = encoder_blocks(model)
    found: dict[str, Any] = {"blocks": [block.name for block in blocks]}
    found["tokens"] = blocks[0].get_build_config()["input_shape"][1]
    found["entropy_of_uniform"] = math.log(found["tokens"])
    if options.on is not None:
        images = _images(model, options)
        attention = analysis.attention_statistics(model, images, options.batch_size)
        found["attention"] = {key: _plain(value) for key, value in attention.items()}
    if scales := _scales(model):
        scale = analysis.scale_statistics(model)
        found["scale"] = {key: _plain(value) for key, value in scale.items()}
        found["scale"]["layers"] = list(scales)
    costs = analysis.layer_costs(model)
    costs["sum"] = analysis.total_cost(model)
    found["cost"] = {layer: dataclasses.asdict(cost) for layer, cost in costs.items()}
    return found


def _plain(values):
    return [None if math.isnan(value) else value for value in values.tolist()]


def _scales(model):
    """Returns the Λ of a CB_S model by layer, or an empty dict for other models."""
    try:
        return analysis.channel_scales(model)
    except ValueError:
        return {}


def _images(model, options):
    """Yields images of the data set; those of a folder are ordered by class.

    A data set that does not fit into memory is decoded on the fly.
    """
    size = size_of(model.name, model, options.image_size)
    data = with_options(data_of(options.on), options, size)
    images = load_set(options.on, data).test.images
    number = min(options.images, len(images))
    return (images[i * len(images) // number] for i in range(number))


def _markdown(found):
    """Yields the paragraphs and tables of a model."""
    if "attention" in found:
        most = f"{found['entropy_of_uniform']:.4f} nats"
        yield f"Attention (uniform over all {found['tokens']} tokens: {most})."
        yield _table("block", found["blocks"], ATTENTION, found["attention"])
    if "scale" in found:
        yield "Λ by layer."
        yield _table("layer", found["scale"]["layers"], SCALE, found["scale"])
    yield "Cost of one image."
    titles = "layer", "MACs of matrix products", "MACs of context", "parameters"
    costs = found["cost"].items()
    cells = [(layer, *cost.values()) for layer, cost in costs if any(cost.values())]
    yield markdown_table(titles, cells)
    total = found["cost"]["sum"]
    share = total["context_macs"] / total["matmul_macs"]
    yield f"Context adds {share:.4%} to the MACs of the matrix products."


def _table(title, layers, titles, columns):
    """Formats a table with one row per layer and one for the mean."""
    values = [columns[key] for key in titles]
    means = np.mean(np.array(values, float), axis=1)
    cells = [*zip(layers, *values, strict=True), ("mean", *_plain(means))]
    return markdown_table((title, *titles.values()), cells, 4)


def _draw(found, scales, photos, folder):
    """Draws all available figures, keyed by the models' titles, into a folder."""
    figures.draw_softmax_jacobian(folder / "softmax_jacobian.png")
    panels = {label: {} for label in (*ATTENTION.values(), *SCALE.values())}
    for title, numbers in found.items():
        if "attention" in numbers:
            for key, label in ATTENTION.items():
                panels[label][title] = [numbers["attention"][key]]
        if "scale" in numbers:
            for key, label in SCALE.items():
                panels[label] |= _scale_curves(title, numbers, key)
    if entropy := panels[ATTENTION["entropy"]]:
        for numbers in found.values():
            uniform = [[numbers["entropy_of_uniform"]] * len(numbers["blocks"])]
            entropy[f"uniform attention to {numbers['tokens']} tokens"] = uniform
    for labels, file in ((ATTENTION, "attention.png"), (SCALE, "scale_by_layer.png")):
        if curves := {k: panels[k] for k in labels.values() if panels[k]}:
            figures.draw_panels(curves, folder / file)
    if scales := {title: scale for title, scale in scales.items() if scale}:
        figures.draw_scales(scales, folder / "scales.png")
    if photos:
        figures.draw_attention(photos, folder / "photo.png")


def _scale_curves(title, numbers, key):
    """Returns one curve per place in a block that has a Λ; NaN for blocks without."""
    curves = {}
    for layer, value in zip(
        numbers["scale"]["layers"], numbers["scale"][key], strict=True
    ):
        block, *place, _ = layer.split("/")
        label = f"{title}, {'MLP' if place else 'MSA'}"
        nowhere = [[np.nan] * len(numbers["blocks"])]
        curve = curves.setdefault(label, nowhere)[0]
        curve[numbers["blocks"].index(block)] = value
    return curves


def _load_photo(model, file, image_size=None):
    """Returns an image at the model's size, its attention maps and patch grid."""
    size = size_of(model.name, model, image_size)
    photo = fit(decode(file, str(file)), size)
    return photo, analysis.attention_maps(model, photo[None]), token_grid(model)


def main(arguments=None):
    from .commands import parse, report_errors

    options = parse("analyze", Analysis, __doc__, arguments)
    with report_errors():
        analyze(options)


if __name__ == "__main__":
    main()
