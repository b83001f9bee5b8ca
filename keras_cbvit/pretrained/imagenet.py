"""The 1,000 classes of ImageNet-1k: WordNet's synsets, and names in words."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path

_FILE = Path(__file__).with_name("imagenet_classes.txt")  # says where it is from


def synsets() -> tuple[str, ...]:
    """The synsets in the order of the classes' numbers: `"n01440764"` and so on."""
    return tuple(synset for synset, _ in _classes())


def words() -> tuple[str, ...]:
    """Names of the classes in the order of their numbers, all different."""
    return tuple(name for _, name in _classes())


def are_synsets(names: Sequence[str]) -> bool:
    """Whether classes are named by synsets of WordNet."""
    return all(re.fullmatch(r"n\d{8}", name) for name in names)


def in_synsets(names: Sequence[str]) -> tuple[str, ...]:
    """Names of classes, with the synsets for the words of all 1,000."""
    names = tuple(names)
    return synsets() if names == words() else names


@functools.cache
def _classes():
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    return [line.split(" ", 1) for line in lines if not line.startswith("#")]
