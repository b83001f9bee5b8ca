"""Lints prose by proselint and the project's words: `python tests/prose.py`.

The prose is that of Markdown files and notebooks, without code; the strings and
comments of Python; and the configuration of the documentation site.
"""

import io
import json
import re
import sys
import tokenize
from pathlib import Path

from proselint.checks import __register__ as of_proselint
from proselint.registry import CheckRegistry
from proselint.registry.checks import Check, types
from proselint.tools import LintFile

ROOT = Path(__file__).parents[1]
FILES = (
    "*.md",
    "*.py",
    "mkdocs.yml",
    "weights/*.md",
    "docs/*.md",
    "docs/api/*.md",
    "docs/**/*.py",
    "docs/tutorials/*.ipynb",
    "keras_cbvit/**/*.py",
    "recipes/**/*.py",
)
WORDS = {
    "picture": "image",
    "pictures": "images",
    "go on": "continue, resume",
    "goes on": "continues, resumes",
    "going on": "continuing, resuming",
    "went on": "continued, resumed",
    "anew": "again",
    "start(?:s|ed)? again": "restart",
    "nobody has": "is not",
    "of (?:its|their|one's) own": "own, separate, individual",
    "each its own": "its own",
    "as (?:it was|they were)": "unchanged",
    "such an?": "a, this",
    "wakes?": "starts, resumes",
    "asks? for": "requires, takes",
    "asked for": "requested, given",
    "what is there": "the contents",
    "what there is": "the contents",
    "brought (?:in)?to": "resized to, set to",
    "laid over": "composited over",
    "lays? (?:it|them) over": "composites over",
    "so many": "that many",
    "as ever": "as before",
    "one can": "you can",
    "very": "less, or a number",
}
# Of proselint; the others are for novels, or read tables and numbers as words.
OF_PROSELINT = (
    "annotations",
    "archaism",
    "cliches",
    "malapropisms",
    "misc.apologizing",
    "misc.back_formations",
    "misc.many_a",
    "misc.metadiscourse",
    "misc.pretension",
    "misc.whence",
    "mondegreens",
    "needless_variants",
    "nonwords",
    "redundancy",
    "spelling",
)
_CODE = re.compile(
    r"^```.*?^```$|``.+?``|`[^`]+`|\]\([^)\s]+\)|https?://\S+", re.M | re.S
)
# Not apostrophes. proselint skips quoted text, so it would skip docstrings.
_QUOTATION_MARKS = re.compile(r"\"|\B'|'\B")


def prose(path):
    """The text of a file with all else blank, so that lines keep their numbers."""
    if path.suffix == ".py":
        return _without_code(_of_python(path.read_text()))
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text())["cells"]
        markdown = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
        return _without_code("\n\n".join(markdown))
    return _without_code(path.read_text())


def _without_code(text):
    text = _CODE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    return _QUOTATION_MARKS.sub(" ", text)


def _of_python(source):
    lines = [""] * (source.count("\n") + 2)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            for number, line in enumerate(token.string.split("\n"), token.start[0]):
                lines[number] += f" {line}"
    return "\n".join(lines[1:])


def _checks():
    words = {term.replace(" ", r"\s+"): better for term, better in WORDS.items()}
    message = "'{1}': write {0}."
    check = types.PreferredForms(words)
    yield Check(check_type=check, path="project.words", message=message)
    yield from of_proselint


def main():
    CheckRegistry().register_many(tuple(_checks()))
    enabled = dict.fromkeys(("project", *OF_PROSELINT), True)
    found = 0
    for path in sorted({path for pattern in FILES for path in ROOT.glob(pattern)}):
        name = path.relative_to(ROOT)
        for result in LintFile(str(name), prose(path)).lint(
            {"max_errors": 1000, "checks": enabled}
        ):
            line, column = result.pos
            print(f"{name}:{line}:{column}: {result.check_result.message}")
            found += 1
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
