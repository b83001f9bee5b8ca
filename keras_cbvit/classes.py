"""Validates and compares class names."""

import unicodedata
from collections.abc import Sequence
from typing import Any


def normalize_name(name: str) -> str:
    """Returns a name in Unicode NFC without surrounding whitespace.

    macOS decomposes accents in file names, Linux does not.
    """
    return unicodedata.normalize("NFC", name).strip()


def check_names(
    names: Any, number: int | None = None, what: str = "class_names"
) -> tuple[str, ...]:
    """Validates class names and returns a tuple of normalized strings.

    Args:
        names: a list, tuple or array of strings.
        number: the required number of names; `None` for any number.
        what: name of the argument in messages.

    Raises:
        ValueError: if `names` is not a list of distinct, non-empty Unicode strings of
            the required length.
    """
    names = names.tolist() if hasattr(names, "tolist") else names
    if not isinstance(names, list | tuple):
        raise ValueError(f"{what}={names!r:.80} must be a list of names.")
    if number is not None and len(names) != number:
        raise ValueError(
            f"{what} has {len(names)} names, but the model predicts {number} classes."
        )
    found = {}
    for place, name in enumerate(names):
        if not isinstance(name, str):
            raise ValueError(f"{what}[{place}] is {name!r:.80}, not a string.")
        key = normalize_name(name)
        if not key:
            raise ValueError(f"{what}[{place}] is empty; every class needs a name.")
        try:
            key.encode()
        except UnicodeEncodeError:  # from a file name that is not UTF-8
            raise ValueError(
                f"{what}[{place}] is {name!r:.80}, which is not valid Unicode; rename "
                "the class."
            ) from None
        if key in found:
            first = found[key]
            same = "" if first == name else f" ({first!a:.80} and {name!a:.80})"
            raise ValueError(
                f"{what} has {key!r:.80} twice{same}; class names must be unique."
            )
        found[key] = name
    return tuple(found)


def difference(
    what: str, names: Sequence[str], others_what: str, others: Sequence[str]
) -> str | None:
    """Describes how two lists of class names differ; `None` if they do not.

    Args:
        what: name of the first list in the text.
        names: the first list.
        others_what: name of the other list.
        others: the other list.
    """
    for one, own, two, other in (
        (what, names, others_what, others),
        (others_what, others, what, names),
    ):
        if alone := [name for name in own if name not in set(other)]:
            return f"{one} has {join_names(alone)}, but {two} does not"
    for place, (name, other) in enumerate(zip(names, others, strict=True)):
        if name != other:
            return (
                f"number {place} is {name!r:.80} in {what}, {other!r:.80} in "
                f"{others_what}"
            )
    return None


def join_names(names: Sequence[str], most: int = 5) -> str:
    """Joins the first names, and the number of the others, for messages."""
    shown = ", ".join(f"{name:.40}" for name in names[:most])
    more = len(names) - most
    return f"{shown} and {more:,} more" if more > 0 else shown
