"""Image folders: finds the images, and reports files that are not used."""

import collections
import os
import warnings
from pathlib import Path

from keras_cbvit.images import endings

from .storage import entries, is_url, path_of

_IMAGE, _FOLDER = "image", "folder"
_SHOWN = 8  # maximum number of kinds in a message


class MissingDatasetError(FileNotFoundError):
    """A data set was not found; the message explains how to get it."""


class Contents:
    """Contents of a data set's folder: lists images and counts all other entries.

    Every file and folder is either used or counted. An unused folder counts once,
    regardless of its contents.

    Args:
        tops: the data set's folder, or the relevant subfolders.

    Attributes:
        unused: a `Counter` of unused entries by kind: the extension of files that are
            not images, "hidden", "broken (link)" and so on.
    """

    def __init__(self, *tops):
        self.tops = [_absolute(top) for top in tops]
        self.unused = collections.Counter()
        self.used = set()

    def use(self, path):
        """Marks a file or folder as used."""
        self.used.add(_absolute(path))

    def images_in(self, folder, walked=None):
        """Lists the images in a folder and its subfolders, as sorted path strings.

        Images are files with an extension of a format that Pillow decodes. Links to
        folders are followed, except to parents of the link; each folder is visited
        once.

        Args:
            folder: path of the folder.
            walked: dict to pass to several calls whose folders must not overlap; it
                is updated and maps real paths to the given folders.

        Raises:
            MissingDatasetError: if the folder does not exist or contains no images.
            ValueError: if two folders overlap.
            OSError: if a folder cannot be read.
        """
        if not path_of(folder).is_dir():
            raise MissingDatasetError(f"The folder {folder} does not exist.")
        found, unused = [], collections.Counter()
        for path, kind in _walk(str(folder), {} if walked is None else walked):
            if kind == _IMAGE:
                # `Path` objects would take a gigabyte for ImageNet.
                found.append(path)
            else:
                unused[kind] += 1
        if _absolute(folder) not in self.used:  # count only once
            self.unused += unused
        self.use(folder)
        if not found:
            holds = f" It contains {_list_kinds(unused)}." if unused else ""
            raise MissingDatasetError(
                f"{folder} contains no images, that is, files with the extension .jpg, "
                f".png, .tif or that of another format that Pillow decodes.{holds}"
            )
        return sorted(found, key=lambda path: path.split(os.sep))

    def warn(self):
        """Warns about all unused files and folders; call it once, at the end.

        This also counts entries next to the used folders, from the `tops` down.
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
                    kind = f"{_ending(entry)} outside the image folders"
                self.unused[kind] += 1
        if self.unused:
            where = " and ".join(map(str, self.tops))
            warnings.warn(
                f"Not used in {where}: {_list_kinds(self.unused)}.", stacklevel=2
            )


def is_above(link, folder):
    """Returns whether a link points to a folder or to one of its parents."""
    target = os.path.realpath(link).rstrip(os.sep) + os.sep
    return f"{os.path.realpath(folder)}{os.sep}".startswith(target)


def _walk(top, walked):
    """Yields path and kind of all entries of a folder and its subfolders.

    Linked folders come last. For `walked` see `Contents.images_in`.
    """
    inside, linked = [top], collections.deque()
    while inside or linked:
        here = inside.pop() if inside else linked.popleft()
        in_full = here if is_url(here) else os.path.realpath(here)
        if in_full in walked:
            if walked[in_full] != top:
                raise ValueError(
                    f"{here} and {walked[in_full]} overlap; an image cannot belong to "
                    "both."
                )
            yield here, "repeated (link)"
            continue
        walked[in_full] = top
        for entry in entries(here):
            kind = _kind(entry)
            if kind != _FOLDER:
                yield entry.path, kind
            elif not entry.is_symlink():
                inside.append(entry.path)
            elif is_above(entry.path, here) or is_above(entry.path, top):
                yield entry.path, "recursive (link)"
            else:
                linked.append(entry.path)


def _absolute(path):
    return path_of(path) if is_url(path) else Path(os.path.abspath(path))


def _kind(entry):
    """Returns the kind of an entry of a folder."""
    if entry.name.startswith("."):
        return "hidden"
    if entry.is_symlink() and not os.path.exists(entry.path):
        return "broken (link)"
    if entry.is_dir():
        return _FOLDER
    if not entry.is_file():
        return "special (pipe, socket, device)"
    ending = _ending(entry)
    return _IMAGE if ending in endings() else ending


def _ending(entry):
    return os.path.splitext(entry.name)[1].lower()[:20] or "without an extension"


def _list_kinds(kinds):
    """Lists kinds with their counts, the most frequent first."""
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{number} {kind}" for kind, number in ordered[:_SHOWN]]
    rest = sum(number for _, number in ordered[_SHOWN:])
    return ", ".join(named + [f"{rest} of other kinds"] * bool(rest))
