"""Names of classes: what may be one, and the form in which they are compared."""

import unicodedata
from collections.abc import Sequence
from typing import Any


def normalized(name: str) -> str:
    """A name as it is compared: composed (Unicode's NFC), without space around it.

    macOS decomposes the accents of file names, Linux keeps them as they were typed.
    """
    return unicodedata.normalize("NFC", name).strip()


def check_names(
    names: Any, number: int | None = None, what: str = "class_names"
) -> tuple[str, ...]:
    """Names of classes as a tuple of `normalized` strings.

    Args:
        names: a list, tuple or array of strings.
        number: how many there must be; `None` for any number.
        what: what messages call them.

    Raises:
        ValueError: if they are something else, one is empty or no text, two are the
            same, or there are not as many.
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
        key = normalized(name)
        if not key:
            raise ValueError(f"{what}[{place}] is empty; every class needs a name.")
        try:
            key.encode()
        except UnicodeEncodeError:  # of a file name that is not UTF-8
            raise ValueError(
                f"{what}[{place}] is {name!r:.80}, which is not Unicode text; rename "
                "the class."
            ) from None
        if key in found:
            first = found[key]
            same = "" if first == name else f" ({first!a:.80} and {name!a:.80})"
            raise ValueError(
                f"{what} has {key!r:.80} twice{same}; every class needs a name of its "
                "own."
            )
        found[key] = name
    return tuple(found)


def difference(
    what: str, names: Sequence[str], others_what: str, others: Sequence[str]
) -> str | None:
    """How two lists of checked names differ, in words; `None` if they do not.

    Args:
        what: what to call the first list.
        names: the first list.
        others_what: what to call the other one.
        others: the other list.
    """
    for one, own, two, other in (
        (what, names, others_what, others),
        (others_what, others, what, names),
    ):
        if alone := [name for name in own if name not in set(other)]:
            return f"{one} has {listed(alone)}, but {two} does not"
    for place, (name, other) in enumerate(zip(names, others, strict=True)):
        if name != other:
            return (
                f"number {place} is {name!r:.80} in {what}, {other!r:.80} in "
                f"{others_what}"
            )
    return None


def listed(names: Sequence[str], most: int = 5) -> str:
    """Some of the names in words, and how many more there are."""
    shown = ", ".join(f"{name:.40}" for name in names[:most])
    more = len(names) - most
    return f"{shown} and {more:,} more" if more > 0 else shown
