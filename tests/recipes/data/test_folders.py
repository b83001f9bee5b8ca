import os
import re
import socket
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from recipes.data.folders import Contents, MissingDatasetError
from recipes.data.sources import load_dataset
from recipes.options.classification import Data

pytestmark = pytest.mark.any_backend


def put(path, content=b""):
    """An image, if its ending says so, else a file of this content."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".png", ".tif", ".JPG"):
        kind = {".png": "PNG", ".tif": "TIFF", ".JPG": "JPEG"}[path.suffix]
        Image.new("RGB", (8, 8), (200, 100, 0)).save(path, kind)
    else:
        path.write_bytes(content)


def names(paths, folder):
    return [os.path.relpath(path, folder) for path in paths]


def load(folder, **options):
    """The data set, and what was said on files that are not used."""
    data = Data(dataset=str(folder), image_size=(8, 8), **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = load_dataset(data)
    return dataset, [str(warning.message) for warning in caught]


def numbers(dataset):
    """How many images each class has, in training and in test."""
    found = np.concatenate([dataset.train.labels, dataset.test.labels])
    return np.bincount(found).tolist()


def test_images_of_every_ending_are_found_and_all_else_is_named(tmp_path, monkeypatch):
    images = ["0.png", "B.JPG", "a.tif", "deep/er/c.png"]
    for name in images:
        put(tmp_path / name)
    for name in "x.txt", "y.TXT", "deep/z.txt", "photo.heic", "README", ".DS_Store":
        put(tmp_path / name)
    put(tmp_path / ".ipynb_checkpoints/0.png")
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # its whole path may be too long
        server.bind("socket.png")
    os.symlink("nowhere.png", tmp_path / "broken.png")
    os.symlink("self.png", tmp_path / "self.png")
    contents = Contents(tmp_path)
    assert names(contents.images_in(tmp_path), tmp_path) == images
    assert contents.unused == {
        ".txt": 3,
        ".heic": 1,
        "without an extension": 1,
        "hidden": 2,
        "special (pipe, socket, device)": 2,
        "broken (link)": 2,
    }
    message = (
        f"Not used in {tmp_path}: 3 .txt, 2 broken (link), 2 hidden, "
        "2 special (pipe, socket, device), 1 .heic, 1 without an extension."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        contents.warn()


tree = st.recursive(
    st.sampled_from([None, "link"]),
    lambda inside: st.dictionaries(
        st.sampled_from(["a.png", "b.TIF", "c.txt", "d", ".e", "f.g", "h.jpeg"]),
        inside,
        max_size=5,
    ),
    max_leaves=20,
)


def build(folder, inside):
    for name, content in inside.items():
        if isinstance(content, dict):
            (folder / name).mkdir()
            build(folder / name, content)
        elif content == "link":
            os.symlink("nothing there", folder / name)
        else:
            (folder / name).touch()


@given(inside=st.dictionaries(st.sampled_from(["x.png", "y", ".z"]), tree, max_size=3))
def test_all_that_a_folder_holds_is_used_or_counted(tmp_path_factory, inside):
    folder = tmp_path_factory.mktemp("tree")
    build(folder, {"first.png": None, **inside})
    contents = Contents(folder)
    found = contents.images_in(folder)
    held = 0
    for _, folders, files in os.walk(folder):
        hidden = [name for name in folders if name.startswith(".")]
        folders[:] = [name for name in folders if name not in hidden]
        held += len(files) + len(hidden)
    assert len(found) + contents.unused.total() == held
    assert all(Path(path).is_file() for path in found)


# Linked folders


def test_a_linked_folder_is_followed(tmp_path):
    for i in range(20):
        put(tmp_path / f"disk/{i}.png")
    for i in range(10):
        put(tmp_path / f"set/a/{i}.png")
        put(tmp_path / f"set/b/{i}.png")
    os.symlink(tmp_path / "disk", tmp_path / "set/a/more")
    dataset, said = load(tmp_path / "set")
    assert (numbers(dataset), said) == ([30, 10], [])


def test_a_class_folder_may_be_a_link(tmp_path):
    for i in range(10):
        put(tmp_path / f"disk/{i}.png")
        put(tmp_path / f"set/b/{i}.png")
    os.symlink(tmp_path / "disk", tmp_path / "set/a")
    dataset, said = load(tmp_path / "set")
    assert (dataset.class_names, numbers(dataset), said) == (("a", "b"), [10, 10], [])


def test_no_folder_is_counted_twice_and_none_above_a_link(tmp_path):
    for i in range(10):
        put(tmp_path / f"a/in/{i}.png")
        put(tmp_path / f"b/{i}.png")
    os.symlink("in", tmp_path / "a/again")
    os.symlink("../in", tmp_path / "a/in/itself")
    os.symlink("..", tmp_path / "a/up")
    os.symlink(tmp_path.parent, tmp_path / "a/further")
    os.symlink(tmp_path, tmp_path / "loop")
    dataset, said = load(tmp_path)
    assert (dataset.class_names, numbers(dataset)) == (("a", "b"), [10, 10])
    assert said == [
        f"Not used in {tmp_path}: 3 recursive (link), 1 folder loop, 1 repeated (link)."
    ]


def test_links_are_followed_once_in_whatever_order_they_come(tmp_path):
    put(tmp_path / "disk/in/0.png")
    put(tmp_path / "disk/1.png")
    put(tmp_path / "set/2.png")
    os.symlink(tmp_path / "disk/in", tmp_path / "set/a")
    os.symlink(tmp_path / "disk", tmp_path / "set/b")
    os.symlink(tmp_path / "set", tmp_path / "disk/back")
    contents = Contents(tmp_path / "set")
    found = names(contents.images_in(tmp_path / "set"), tmp_path / "set")
    assert found == ["2.png", "a/0.png", "b/1.png"]
    assert contents.unused == {
        "repeated (link)": 1,
        "recursive (link)": 1,
    }


def test_a_folder_of_two_classes_is_refused(tmp_path):
    for i in range(10):
        put(tmp_path / f"a/{i}.png")
        put(tmp_path / f"b/{i}.png")
    os.symlink("../a", tmp_path / "b/more")
    message = f"{tmp_path}/b/more and {tmp_path}/a overlap; an image"
    with pytest.raises(ValueError, match=re.escape(message)):
        load(tmp_path)


# Beside the folders of images


def test_what_lies_beside_class_folders_is_named(tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b"):
            put(tmp_path / split / name / "0.png")
        put(tmp_path / split / "loose.png")
        put(tmp_path / split / ".hidden/0.png")
    put(tmp_path / "val/a/0.png")
    put(tmp_path / "LICENSE")
    dataset, said = load(tmp_path)
    assert numbers(dataset) == [2, 2]
    assert said == [
        f"Not used in {tmp_path}: 2 .png outside the image folders, 2 "
        "hidden, 1 folder val, 1 without an extension."
    ]
    # Of one split alone the others are not asked for.
    data = Data(dataset=str(tmp_path), image_size=(8, 8))
    with pytest.warns(UserWarning) as caught:
        load_dataset(data, train=False)
    (message,) = (str(warning.message) for warning in caught)
    assert message == (
        f"Not used in {tmp_path}/test: 1 .png outside the image folders, 1 hidden."
    )


def test_what_is_used_by_two_splits_is_counted_once(tmp_path):
    for name in ("a/0.png", "b/0.png", "b/notes.txt"):
        put(tmp_path / "all" / name)
    _, said = load(tmp_path, train_split="all", test_split="all")
    assert said == [f"Not used in {tmp_path}: 1 .txt."]


def test_a_message_names_eight_kinds(tmp_path):
    for i in range(12):
        put(tmp_path / f"a.{i:02}x")
    put(tmp_path / "b.png")
    contents = Contents(tmp_path)
    contents.images_in(tmp_path)
    with pytest.warns(UserWarning, match=r": 1 \.00x, .* 1 \.07x, 4 of other kinds\."):
        contents.warn()


def test_good_folders_need_no_warning(tmp_path):
    put(tmp_path / "a/0.png")
    contents = Contents(tmp_path)
    contents.images_in(tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        contents.warn()


# Folders without images


def test_a_class_folder_without_images_says_what_it_holds(tmp_path):
    put(tmp_path / "a/0.png")
    for i in range(3):
        put(tmp_path / f"b/{i}.heic")
    message = f"{tmp_path}/b contains no images, .*decodes. It contains 3 .heic.$"
    with pytest.raises(MissingDatasetError, match=message):
        load(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingDatasetError, match=f"The folder {tmp_path}/a"):
        Contents(tmp_path).images_in(tmp_path / "a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_an_error(tmp_path):
    put(tmp_path / "a/0.png")
    put(tmp_path / "a/locked/0.png")
    (tmp_path / "a/locked").chmod(0)
    try:
        with pytest.raises(PermissionError, match="a/locked"):
            Contents(tmp_path).images_in(tmp_path / "a")
    finally:
        (tmp_path / "a/locked").chmod(0o700)
