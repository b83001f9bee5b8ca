"""What a data set's folders hold: the images, and by kind what is not used."""

import collections
import os
import warnings
from pathlib import Path

from keras_cbvit.images import endings

from .storage import entries, is_url, path_of

_IMAGE, _FOLDER = "image", "folder"
_SHOWN = 8  # kinds, in a message


class MissingDatasetError(FileNotFoundError):
    """A data set is not where it was looked for; the message says how to get it."""


class Contents:
    """What a data set's folder holds: lists the images, counts everything else.

    Each file and folder is used or counted. A folder that is not used is counted as
    one, whatever is in it.

    Args:
        tops: the data set's folder, or those of it that all this is about.

    Attributes:
        unused: a `Counter` by kind: the ending of files that are not images, "hidden",
            "linked to nothing" and so on.
    """

    def __init__(self, *tops):
        self.tops = [_absolute(top) for top in tops]
        self.unused = collections.Counter()
        self.used = set()

    def use(self, path):
        """Has a file or folder not be counted."""
        self.used.add(_absolute(path))

    def images_in(self, folder, walked=None):
        """Paths of the images in a folder and its folders, in order, as strings.

        Images are the files whose names end as those of a format that Pillow decodes.
        Linked folders are followed, each folder once, none above the link.

        Args:
            folder: its path.
            walked: for folders of which no two may share a folder, a dict, which is
                filled and given again: real paths to the folders given here.

        Raises:
            MissingDatasetError: if there is no such folder, or no image in it.
            ValueError: if a folder is part of two that share none.
            OSError: if a folder cannot be read.
        """
        if not path_of(folder).is_dir():
            raise MissingDatasetError(f"There is no folder {folder}.")
        found, unused = [], collections.Counter()
        for path, kind in _walk(str(folder), {} if walked is None else walked):
            if kind == _IMAGE:
                # Strings: ImageNet's as `Path` objects would take a gigabyte.
                found.append(path)
            else:
                unused[kind] += 1
        if _absolute(folder) not in self.used:  # or all of it is counted
            self.unused += unused
        self.use(folder)
        if not found:
            holds = f" It holds {_listed(unused)}." if unused else ""
            raise MissingDatasetError(
                f"{folder} has no images, that is files that end in .jpg, .png, .tif "
                f"or as another format that Pillow decodes.{holds}"
            )
        return sorted(found, key=lambda path: path.split(os.sep))

    def warn(self):
        """Warns of what is not used, in one sentence; call it once, at the end.

        What lies beside the folders that are used, from the `tops` down to them, is
        counted now.
        """
        on_the_way = {parent for path in self.used for parent in path.parents}
        waiting = [top for top in self.tops if top in on_the_way - self.used]
        while waiting:
            here = waiting.pop()
            for entry in entries(here):
                path = here / entry.name
                if path in self.used:
                    continue
                if path in on_the_way:
                    waiting.append(path)
                    continue
                kind = _kind(entry)
                if kind == _FOLDER:
                    kind = f"folder {entry.name:.40}"
                elif kind == _IMAGE:
                    kind = f"{_ending(entry)} beside the folders of images"
                self.unused[kind] += 1
        if self.unused:
            where = " and ".join(map(str, self.tops))
            warnings.warn(f"Not used in {where}: {_listed(self.unused)}.", stacklevel=2)


def is_above(link, folder):
    """Whether a link leads to a folder or to one that holds it, at any depth."""
    target = os.path.realpath(link).rstrip(os.sep) + os.sep
    return f"{os.path.realpath(folder)}{os.sep}".startswith(target)


def _walk(top, walked):
    """Yields path and kind of all that a folder and its folders hold.

    What is linked comes after what is not. For `walked` see `Contents.images_in`.
    """
    inside, linked = [top], collections.deque()
    while inside or linked:
        here = inside.pop() if inside else linked.popleft()
        in_full = here if is_url(here) else os.path.realpath(here)
        if in_full in walked:
            if walked[in_full] != top:
                raise ValueError(
                    f"{here} and {walked[in_full]} are or share one folder, whose "
                    "images cannot be of both."
                )
            yield here, "linked again"
            continue
        walked[in_full] = top
        for entry in entries(here):
            kind = _kind(entry)
            if kind != _FOLDER:
                yield entry.path, kind
            elif not entry.is_symlink():
                inside.append(entry.path)
            elif is_above(entry.path, here) or is_above(entry.path, top):
                yield entry.path, "linked to a folder above"
            else:
                linked.append(entry.path)


def _absolute(path):
    return path_of(path) if is_url(path) else Path(os.path.abspath(path))


def _kind(entry):
    """What an entry of a folder is; a kind that is not used in words."""
    if entry.name.startswith("."):
        return "hidden"
    if entry.is_symlink() and not os.path.exists(entry.path):
        return "linked to nothing"
    if entry.is_dir():
        return _FOLDER
    if not entry.is_file():
        return "special (pipe, socket, device)"
    ending = _ending(entry)
    return _IMAGE if ending in endings() else ending


def _ending(entry):
    return os.path.splitext(entry.name)[1].lower()[:20] or "without an ending"


def _listed(kinds):
    """Kinds with their numbers, the most frequent first."""
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{number} {kind}" for kind, number in ordered[:_SHOWN]]
    rest = sum(number for _, number in ordered[_SHOWN:])
    return ", ".join(named + [f"{rest} of other kinds"] * bool(rest))
