"""The 1,000 classes of ImageNet-1k: WordNet synsets and names."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path

_FILE = Path(__file__).with_name("imagenet_classes.txt")  # cites its source


def synsets() -> tuple[str, ...]:
    """Returns the synsets, such as `"n01440764"`, in the order of the classes."""
    return tuple(synset for synset, _ in _classes())


def words() -> tuple[str, ...]:
    """Returns the distinct names of the classes, in order."""
    return tuple(name for _, name in _classes())


def are_synsets(names: Sequence[str]) -> bool:
    """Returns whether the class names are WordNet synsets."""
    return all(re.fullmatch(r"n\d{8}", name) for name in names)


def in_synsets(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the synsets if `names` are all 1,000 names, else `names`."""
    names = tuple(names)
    return synsets() if names == words() else names


@functools.cache
def _classes():
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    return [line.split(" ", 1) for line in lines if not line.startswith("#")]
