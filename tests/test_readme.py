"""Python of the README and the docs runs as it stands there; commands are accepted."""

import contextlib
import importlib
import re
import shlex
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_cbvit.models import registry
from keras_cbvit.models.registry import SIZES
from keras_cbvit.pretrained.sources import PLACE_VARIABLE, Folder, own_folder
from recipes import cli, commands

pytestmark = [pytest.mark.any_backend, pytest.mark.slow]
ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
# In this order: a later page reads a file that an earlier one has written.
PAGES = "models", "weights", "publishing", "fine_tuning", "serving"
PYTHON = README, *(ROOT / "docs" / f"{page}.md" for page in PAGES)
# bash itself reads a block, with its variables and loops, but can only print commands.
PRINT_COMMANDS = r"""
PATH=
python() { printf '%q ' "$@"; echo; }
keras-cbvit() { python -m "keras_cbvit.$1" "${@:2}"; }
"""


def blocks(page, language):
    """Each fenced block of a page in a language, by the line it begins in."""
    text = page.read_text()
    for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.M | re.S):
        yield text.count("\n", 0, found.start(1)) + 1, found[1]


def commands_in(script):
    """The commands of the recipes in a script of bash: each with its arguments."""
    printed = subprocess.run(
        ["bash"], input=PRINT_COMMANDS + script, capture_output=True, text=True
    ).stdout
    for line in printed.splitlines():
        _, module, *arguments = shlex.split(line)
        package, _, command = module.partition(".")
        if package in ("recipes", "keras_cbvit"):
            yield [command, *arguments]


def commands_by_page():
    """Those of the README, of the other pages, and of the published weights."""
    scripts = {
        page.name: "\n".join(block for _, block in blocks(page, "bash"))
        for page in (README, *sorted((ROOT / "docs").glob("*.md")))
    }
    for name, record in Folder(own_folder()).records().items():
        measured = [evaluation.command for evaluation in record.evaluations]
        scripts[name] = "\n".join([record.recipe, *measured])
    return {page: [*commands_in(script)] for page, script in scripts.items()}


COMMANDS = commands_by_page()


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """What a reader has beside the README: a folder, images, labels and names."""
    random = np.random.default_rng(0)
    names = {
        "x": random.random((2, 5, 3)),
        "images": random.integers(0, 256, (2, 224, 224, 3), "uint8"),
        "small_images": random.integers(0, 256, (2, 32, 32, 3), "uint8"),
        "labels": np.array([0, 36]),
        "names": [f"flower {number}" for number in range(37)],
        "accuracy": 0.5,
    }
    folder = tmp_path_factory.mktemp("reader")
    keras.utils.save_img(folder / "cat.jpg", names["images"][0], scale=False)
    return folder, names


@pytest.fixture
def narrow(monkeypatch):
    """`ViTCB_S` of an eighth of its width, or it would take its time."""
    numbers = {**SIZES["s"], "hidden_dim": 48}
    monkeypatch.setitem(SIZES, "s", numbers)
    models = {**registry._models, "vitcb_s": {**numbers, "broadcast": "cb"}}
    monkeypatch.setattr(registry, "_models", models)


@pytest.mark.parametrize(
    "page, line, code",
    [
        pytest.param(page, *block, id=f"{page.name}, line {block[0]}")
        for page in PYTHON
        for block in blocks(page, "python")
    ],
)
def test_python_runs(page, line, code, reader, monkeypatch, request):
    folder, names = reader
    if "import timm" in code:
        pytest.importorskip("timm", reason="timm is not in this environment")
    else:
        request.getfixturevalue("narrow")
    monkeypatch.chdir(folder)
    if place := re.search(rf"^# {PLACE_VARIABLE}=(.+)$", code, re.M):
        monkeypatch.setenv(PLACE_VARIABLE, place[1])
    # Errors have the line in the page.
    exec(compile("\n" * (line - 1) + code, page, "exec"), names)


class AcceptedError(Exception):
    """A command has read its options, and is about to do its work."""


def accept():
    raise AcceptedError


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, id=f"{page}: {shlex.join(command):.80}")
        for page, found in COMMANDS.items()
        for command in found
    ],
)
def test_commands_are_accepted(command, monkeypatch):
    module = importlib.import_module(f"recipes.{cli.COMMANDS[command[0]]}")
    for each in (commands, module):
        monkeypatch.setattr(each, "report_errors", accept, raising=False)
    with contextlib.suppress(AcceptedError):  # or it only lists what there is
        cli.main(command)


def test_commands_are_found():
    pages = (
        "README.md",
        "cifar10.md",
        "evaluation.md",
        "faq.md",
        "fine_tuning.md",
        "imagenet.md",
        "paper.md",
        "publishing.md",
        "segmentation.md",
        "training.md",
    )
    assert all(COMMANDS[page] for page in pages)
    assert ["train", "digits"] in COMMANDS["training.md"]
    assert all(len(COMMANDS[name]) == 2 for name in Folder(own_folder()).records())
