import io
import re

import numpy as np
import pytest
from PIL import Image

from keras_cbvit.images import BrokenImageError
from recipes.data.images import Images
from recipes.options.classification import Data

pytestmark = pytest.mark.any_backend


def decode(picture, size, crop_fraction=1.0):
    return Images([picture], Data(image_size=size, crop_fraction=crop_fraction))[0]


def random_picture(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype="uint8")


@pytest.mark.parametrize(
    ("shape", "size", "part"),
    [
        ((8, 8), (8, 8), np.s_[:, :]),
        ((8, 12), (8, 8), np.s_[:, 2:10]),
        ((12, 8), (8, 8), np.s_[2:10, :]),
        ((12, 8), (4, 8), np.s_[4:8, :]),
    ],
)
def test_decode_keeps_the_largest_centerd_part_of_the_wanted_proportions(
    shape, size, part
):
    pixels = random_picture(*shape, 3)
    np.testing.assert_array_equal(decode(pixels, size), pixels[part])


def test_crop_fraction_keeps_the_center():
    pixels = random_picture(16, 24, 3)
    np.testing.assert_array_equal(decode(pixels, (14, 14), 0.875), pixels[1:15, 5:19])
    np.testing.assert_array_equal(decode(pixels, (8, 8), 0.5), pixels[4:12, 8:16])


def test_decode_resizes_with_antialiasing():
    stripes = np.zeros((64, 64, 3), "uint8")
    stripes[:, ::2] = 255
    small = decode(stripes, (8, 8))
    assert small.shape == (8, 8, 3)
    np.testing.assert_allclose(small[1:-1, 1:-1], 127.5, atol=8)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1)])
def test_gray_becomes_three_equal_channels(shape):
    pixels = random_picture(*shape)
    expected = np.repeat(pixels.reshape(8, 8, 1), 3, axis=-1)
    np.testing.assert_array_equal(decode(pixels, (8, 8)), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_pictures_of_every_mode_become_rgb(tmp_path, mode):
    path = tmp_path / "picture.png"
    image = Image.new("RGB", (8, 8), (51, 51, 51)).convert(mode)
    image.save(path)
    np.testing.assert_array_equal(decode(path, (8, 8)), np.full((8, 8, 3), 51))


def opened(path):
    return Images([path], Data(), [path].__getitem__).open(0)


def test_an_opened_picture_has_its_own_size_in_rgb(tmp_path):
    pixels = random_picture(20, 30)
    Image.fromarray(pixels).save(tmp_path / "gray.png")
    image = opened(tmp_path / "gray.png")
    assert (image.size, image.mode) == ((30, 20), "RGB")
    np.testing.assert_array_equal(image, np.stack([pixels] * 3, axis=-1))


def test_pictures_have_negative_indices_an_end_and_first_ones():
    every = [random_picture(8, 8, 3) + np.uint8(i) for i in range(5)]
    pictures = Images(every, Data(image_size=(8, 8)))
    np.testing.assert_array_equal(pictures[-1], every[4])
    np.testing.assert_array_equal(list(pictures), every)
    first = pictures.first(3)
    np.testing.assert_array_equal(list(first), every[:3])
    np.testing.assert_array_equal(first[-1], every[2])
    assert (len(first), len(pictures.first(9)), len(pictures)) == (3, 5, 5)
    with pytest.raises(IndexError):
        first.open(3)


def encoded(kind, *shape):
    stream = io.BytesIO()
    Image.fromarray(random_picture(*shape)).save(stream, kind)
    return stream.getvalue()


BROKEN = {
    "empty": b"",
    "text": b"not a picture",
    "header.png": encoded("PNG", 8, 8, 3)[:20],
    "half.png": encoded("PNG", 8, 8, 3)[:100],
    "chunk.png": encoded("PNG", 8, 8, 3).replace(b"IDAT", b"\x1a\xad\xe1P"),
    "half.jpeg": encoded("JPEG", 64, 64, 3)[:2000],
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_picture_names_its_file(tmp_path, kind):
    path = tmp_path / kind
    path.write_bytes(BROKEN[kind])
    with pytest.raises(
        BrokenImageError,
        match=rf"^{re.escape(str(path))} is not a readable image \(\w+",
    ):
        opened(path)


@pytest.mark.parametrize("kind", ["folder", "nothing"])
def test_what_cannot_be_read_names_its_file(tmp_path, kind):
    path = tmp_path / "picture.png"
    if kind == "folder":
        path.mkdir()
    # Not a broken picture, of which a run would leave out one after the other.
    expected = IsADirectoryError if kind == "folder" else FileNotFoundError
    with pytest.raises(expected, match=r"picture\.png"):
        opened(path)


def test_a_broken_picture_without_a_name_has_its_index():
    good = encoded("PNG", 8, 8, 3)
    pictures = Images([good, good, b"nothing"], Data(image_size=(8, 8)))
    with pytest.raises(BrokenImageError, match="^image 2 is not a readable image"):
        pictures[2]


@pytest.mark.parametrize("fraction", [0, 1.5, -1])
def test_a_crop_fraction_beyond_the_picture_is_refused(fraction):
    with pytest.raises(ValueError, match=f"crop_fraction={fraction} must be above"):
        Images([], Data(crop_fraction=fraction))
