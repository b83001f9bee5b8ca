"""Looks into trained models: attention, Λ, and what they cost.

    python -m recipes.analyze runs/cifar10/plain runs/cifar10/cb --on cifar10

Prints tables in Markdown, and writes them as results.json, with figures, into a
folder. Without --on no attention is measured.
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

# What `attention_statistics` and `scale_statistics` give, for tables and figures.
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
    """What is looked at, and where the results go."""

    models: tyro.conf.Positional[tuple[str, ...]]
    """Names of published weights, .keras files, or run folders."""
    on: str | None = None
    """The set whose images are attended to, as for `recipes.evaluate`."""
    data_dir: str | None = None
    """Where TFDS keeps its data sets."""
    test_split: str | None = None
    """The TFDS split, or the subfolder of an image folder; "test" if ImageNet's
    protocol does not say otherwise."""
    crop_fraction: float | None = None
    """The center's share of the side that is kept. 0.875, DeiT's, for ImageNet's sets,
    else 1."""
    test_labels: Path | None = None
    """For a test folder without class folders, as for training."""
    image_size: tuple[int, int] | None = None
    """Height and width for models that take any."""
    images: int = 1000
    """How many images of the data set, evenly from the first to the last."""
    batch_size: int = 16
    """Images that are measured at once; it does not change the numbers."""
    photo: Path | None = None
    """An image to draw the attention on."""
    out: Path = Path("runs/analysis")
    """Folder of the results and figures."""


def analyze(options):
    """Runs an `Analysis`: prints the tables, writes results and figures.

    Returns:
        What is written as JSON. nan, as the ratio of a Λ that is all zero, is None.

    Raises:
        ValueError: if a model is not a classifier of this package, an option makes no
            sense, or an image cannot be decoded.
        OSError: if a model, data set or image is not there.
    """
    if not options.models:
        raise ValueError("There is no model to look at; name at least one.")
    if options.images < 1:
        raise ValueError(f"images={options.images} must be at least 1.")
    models = {name: load_model(name) for name in options.models}
    if upernets := [
        name for name, model in models.items() if isinstance(model, SegmentationModel)
    ]:
        raise ValueError(
            f"{upernets[0]} is a segmentation model; name classifiers, into whose "
            "Vision Transformers this looks."
        )
    titles = dict(zip(models, figures.short_titles(models), strict=True))
    photos = {}
    if options.photo is not None:
        photos = {
            titles[n]: _photo(m, options.photo, options.image_size)
            for n, m in models.items()
        }
    found = {}
    for name, model in models.items():
        found[name] = _measured(model, options)
        print(f"## {name}\n")
        print("\n\n".join(_markdown(found[name])), end="\n\n")
    options.out.mkdir(parents=True, exist_ok=True)
    for figure in FIGURES:  # of an analysis before, perhaps of other models
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
    print(f"The results and figures are in {options.out}.")
    return result


def _measured(model, options):
    """All numbers of a model, in Python's own types."""
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
    """The Λ of a CB_S model by layer; none of another model."""
    try:
        return analysis.channel_scales(model)
    except ValueError:
        return {}


def _images(model, options):
    """Images of the data set one by one; a folder's are in the order of their classes.

    A set that is too large for memory is decoded as it goes.
    """
    size = size_of(model.name, model, options.image_size)
    data = with_options(data_of(options.on), options, size)
    images = load_set(options.on, data).test.images
    number = min(options.images, len(images))
    return (images[i * len(images) // number] for i in range(number))


def _markdown(found):
    """The parts of a model's tables."""
    if "attention" in found:
        most = f"{found['entropy_of_uniform']:.4f} nats"
        yield f"Attention; that to all {found['tokens']} tokens alike has {most}."
        yield _table("block", found["blocks"], ATTENTION, found["attention"])
    if "scale" in found:
        yield "Λ of each layer."
        yield _table("layer", found["scale"]["layers"], SCALE, found["scale"])
    yield "Cost of one image."
    titles = "layer", "MACs of matrix products", "MACs of context", "parameters"
    costs = found["cost"].items()
    cells = [(layer, *cost.values()) for layer, cost in costs if any(cost.values())]
    yield markdown_table(titles, cells)
    total = found["cost"]["sum"]
    share = total["context_macs"] / total["matmul_macs"]
    yield f"Context takes {share:.4%} of what the matrix products take."


def _table(title, layers, titles, columns):
    """A row for each layer, and their mean; a dash where there is no number."""
    values = [columns[key] for key in titles]
    means = np.mean(np.array(values, float), axis=1)
    cells = [*zip(layers, *values, strict=True), ("mean", *_plain(means))]
    return markdown_table((title, *titles.values()), cells, 4)


def _draw(found, scales, photos, folder):
    """Draws everything there is, by the models' titles, into a folder."""
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
    """A curve for each place in a block that has a Λ; nan where a block has none."""
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


def _photo(model, file, image_size=None):
    """An image at the model's size, its attention maps, and the grid of patches."""
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
