"""Generates pages of the site that are not Markdown files in this folder.

These are the model index, the help of the commands, and pages from files elsewhere in
the repository. The backend is JAX, the smallest to install.
"""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
METRICS = {"top1": "top-1", "mean_iou": "mean IoU", "mean_average_precision": "mAP"}
ENVIRONMENT = {**os.environ, "KERAS_BACKEND": "jax", "COLUMNS": "80"}
COPIES = {
    ROOT / "CHANGELOG.md": "changelog.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
    # The names of cards end in the digits of their file's hash.
    **{
        card: f"cards/{card.stem.rpartition('-')[0]}.md"
        for card in sorted((ROOT / "weights").glob("*.md"))
    },
}
"""Pages of the site whose sources are elsewhere in the repository."""
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config):
    """Removes the demo from the navigation unless `nox -s demo` has built it."""
    if not demo_files():
        config.nav = [entry for entry in config.nav if "Try it" not in entry]
    return config


def demo_files():
    """Lists the files of the demo page, relative to this folder; none if not built."""
    demo = DOCS / "demo"
    if not (demo / "assets" / "models.json").exists():
        return []
    patterns = ("index.html", "style.css", "*.js", "samples/*", "assets/*")
    found = [path for pattern in patterns for path in sorted(demo.glob(pattern))]
    return [path.relative_to(DOCS) for path in found if path.name != "axe.min.js"]


def on_files(files, config):
    """Adds the generated pages, and the demo if it is built."""
    for path in demo_files():  # which `exclude_docs` leaves out
        files.src_uris[path.as_posix()].inclusion = InclusionLevel.INCLUDED
    pages = {"model_index.md": model_index(), "api/commands.md": command_help()}
    pages |= {page: source.read_text() for source, page in COPIES.items()}
    for page, content in pages.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Converts links between files of the repository to links between pages.

    A link to a file or folder that is not on the site becomes its path.
    """
    uri = page.file.src_uri
    origins = {page: source for source, page in COPIES.items()}
    folder = origins.get(uri, DOCS / uri).parent

    def on_site(match):
        text, target, anchor = match.groups(default="")
        path = Path(os.path.normpath(folder / target))
        if path in COPIES:
            found = COPIES[path]
        elif path.is_dir() or (path.is_file() and DOCS not in path.parents):
            name = path.relative_to(ROOT).as_posix()
            return f"`{name}`" if text.strip("`/") in name else f"{text} (`{name}`)"
        elif uri in origins and DOCS in path.parents:
            found = path.relative_to(DOCS).as_posix()
        else:
            return match[0]
        return f"[{text}]({os.path.relpath(found, os.path.dirname(uri))}{anchor})"

    return _LINK.sub(on_site, markdown)


def model_index():
    """Returns the page of model sizes and published weights."""
    rows = ["| Builder | Blocks | Channels | Heads | Parameters | MACs |"]
    rows += ["|---|--:|--:|--:|--:|--:|"]
    for size in generated()["sizes"]:
        rows.append(
            f"| [`{size['builder']}`][keras_cbvit.{size['builder']}] | {size['depth']} "
            f"| {size['hidden_dim']} | {size['num_heads']} "
            f"| {size['parameters']:,} | {size['macs'] / 1e9:.2f}&nbsp;G |"
        )
    weights = ["| Weights | Parameters | Input | Measured on | Result | License |"]
    weights += ["|---|--:|---|---|--:|---|"]
    catalog = json.loads((ROOT / "weights" / "catalog.json").read_text())
    for record in catalog["weights"]:
        found = record["evaluations"] or [{}]
        weights += [_row(record, evaluation) for evaluation in found]
    return _INDEX.format(sizes="\n".join(rows), weights="\n".join(weights))


def _row(record, evaluation):
    name = record["name"]
    height, width = record["input_shape"][:2]
    size = "any" if height is None else f"{height}×{width}"
    metrics = ", ".join(
        f"{METRICS.get(metric, metric)} {100 * value:.2f} %".replace(" ", "&nbsp;")
        for metric, value in evaluation.get("metrics", {}).items()
    )
    measured = f"{evaluation['dataset']}, {evaluation['split']}" if evaluation else ""
    return (
        f"| [`{name}`](cards/{name}.md) | {record['parameters']:,} | {size} "
        f"| {measured} | {metrics} "
        f"| {record['license']} |"
    )


def command_help():
    """Returns the page with the help of every command."""
    parts = [
        "# Command line\n\nThe commands require the extra `recipes`. The options of "
        "`train` depend on the task of its config.\n"
    ]
    for title, text in generated()["help"].items():
        parts.append(f"## {title}\n\n```text\n{text.strip()}\n```\n")
    return "\n".join(parts)


@functools.cache
def generated():
    """Returns the sizes of models and the help of commands."""
    command = (sys.executable, "-P", "-c", _GENERATE)
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The package fails in the docs' environment: {done.stderr}")
    return json.loads(done.stdout)


_GENERATE = """
import contextlib, io, json
import keras_cbvit
from keras_cbvit.models.registry import SIZES
from keras_cbvit.recipes import cli

def help_of(*command):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        with contextlib.suppress(SystemExit):
            cli.main([*command, "--help"])
    assert text.getvalue(), command
    return text.getvalue()

found = {"sizes": [], "help": {"keras-cbvit": help_of()}}
for size, fields in SIZES.items():
    builder = f"ViTCB_{size.capitalize()}"
    model = getattr(keras_cbvit, builder)(classes=1000, input_shape=(224, 224, 3))
    cost = keras_cbvit.analysis.total_cost(model)
    numbers = {"parameters": cost.parameters, "macs": cost.matmul_macs}
    found["sizes"].append({"builder": builder, **fields, **numbers})
for command in cli.COMMANDS:
    found["help"][f"keras-cbvit {command}"] = help_of(command)
    if command == "train":  # its options are those of the config's task
        for config in ("digits", "camvid"):
            found["help"][f"keras-cbvit train {config}"] = help_of(command, config)
print(json.dumps(found))
"""
_INDEX = """# Model index

## Sizes

The numbers are for 1000 classes and images of 224×224 pixels. CB
(`broadcast="cb"`) adds no parameters. CB_S (`broadcast="cbs"`) adds one per channel and
block. MACs are the multiply-accumulates of matrix products for one image, which papers
often report as FLOPs. [`total_cost`][keras_cbvit.analysis.total_cost] computes them.

{sizes}

`list_models()` lists the names for [`create_model`][keras_cbvit.create_model]. The
`UperNet_` builders add [UperNet](segmentation.md) to each size.

## Published weights

Each name links to the model card. [`load_model`][keras_cbvit.load_model] loads
the weights by name. [Pretrained weights](pretrained.md) lists other sources.

{weights}
"""
