import copy
import io
import os
import re
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from keras_cbvit import images
from keras_cbvit.images import BrokenImageError, decode, decode_samples, fit
from tests.recipes.data.image_files import SIDES, over_white, png, shown, tiff

pytestmark = pytest.mark.any_backend

orientations = st.sampled_from([None, *SIDES])
shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
seeds = st.integers(0, 2**32 - 1)


def pixels(file):
    image = decode(file, "x")
    assert image.mode == "RGB"
    if isinstance(file, bytes):  # Pillow's own image shows the same
        with Image.open(io.BytesIO(file)) as opened:
            transparent = copy.deepcopy(opened.info.get("transparency"))
            assert decode(opened, "x") == image
            assert opened.info.get("transparency") == transparent
    return np.asarray(image).astype(float)


def assert_shows(file, expected, orientation=None, within=0.5):
    """That a file is decoded to float pixels of 0–255, turned as it says."""
    expected = shown(expected, orientation or 1)
    np.testing.assert_allclose(pixels(file), expected, rtol=0, atol=within + 1e-6)


# Every kind of PNG file, by hand


@given(
    bits=st.sampled_from([1, 2, 4, 8, 16]),
    keyed=st.booleans(),
    shape=shapes,
    orientation=orientations,
    seed=seeds,
)
def test_gray_png(bits, keyed, shape, orientation, seed):
    samples = np.random.default_rng(seed).integers(0, 2**bits, (*shape, 1))
    key = int(samples[0, 0, 0])
    alpha = samples != key if keyed else np.ones_like(samples)
    transparency = struct.pack(">H", key) if keyed else b""
    file = png(samples, bits, transparency=transparency, orientation=orientation)
    assert_shows(file, over_white(samples / (2**bits - 1), alpha), orientation)
    stored = decode_samples(file, "x")
    assert stored.dtype == ("uint16" if bits == 16 else "uint8")
    np.testing.assert_array_equal(stored, shown(samples[..., 0], orientation or 1))


@given(
    bits=st.sampled_from([1, 2, 4, 8]),
    alphas=st.sampled_from(["none", "one", "many"]),
    shape=shapes,
    orientation=orientations,
    seed=seeds,
)
def test_png_with_a_palette(bits, alphas, shape, orientation, seed):
    random = np.random.default_rng(seed)
    palette = random.integers(0, 256, (2**bits, 3))
    samples = random.integers(0, 2**bits, (*shape, 1))
    alpha = np.full(2**bits, 255)
    if alphas == "one":
        alpha[samples[0, 0, 0]] = 0
    elif alphas == "many":
        alpha = random.integers(0, 256, 2**bits)
    transparency = b"" if alphas == "none" else alpha.astype("uint8").tobytes()
    file = png(samples, bits, palette, transparency, orientation)
    indices = samples[..., 0]
    expected = over_white(palette[indices] / 255, alpha[samples] / 255)
    assert_shows(file, expected, orientation)
    np.testing.assert_array_equal(
        decode_samples(file, "x"), shown(indices, orientation or 1)
    )


@given(
    channels=st.sampled_from([2, 3, 4]),
    bits=st.sampled_from([8, 16]),
    keyed=st.booleans(),
    shape=shapes,
    orientation=orientations,
    seed=seeds,
)
def test_png_of_several_channels(channels, bits, keyed, shape, orientation, seed):
    samples = np.random.default_rng(seed).integers(0, 2**bits, (*shape, channels))
    colors = 3 if channels > 2 else 1
    share = samples / (2**bits - 1)
    alpha = share[..., colors:] if channels in (2, 4) else np.ones((*shape, 1))
    transparency = b""
    if keyed and channels == 3:
        alpha = (samples != samples[0, 0]).any(-1, keepdims=True)
        transparency = struct.pack(">3H", *samples[0, 0])
    file = png(samples, bits, transparency=transparency, orientation=orientation)
    if transparency and bits == 16:
        with pytest.raises(
            BrokenImageError, match="^x has a transparent color of 16 b"
        ):
            pixels(file)
        return
    # Of 16 bits Pillow keeps 8, of color and of alpha.
    within = 0.5 if bits == 8 else 1 if channels == 3 else 2.5
    expected = over_white(share[..., :colors], alpha)
    assert_shows(file, expected, orientation, within)


# TIFF, by hand


@given(
    kind=st.sampled_from(["0 is white", "0 is black", "12 bits"]),
    wide=st.booleans(),
    order=st.sampled_from("<>"),
    deflate=st.booleans(),
    shape=shapes,
    orientation=orientations,
    seed=seeds,
)
def test_gray_tiff(kind, wide, order, deflate, shape, orientation, seed):
    bits = 12 if kind == "12 bits" else 16 if wide else 8
    if bits == 12:  # as Pillow reads it
        shape, order, deflate = (shape[0], 2 * shape[1]), "<", False
    if bits == 16 and kind == "0 is white":
        order = "<"
    samples = np.random.default_rng(seed).integers(0, 2**bits, (*shape, 1))
    inverted = kind == "0 is white"
    options = {"order": order, "deflate": deflate, "orientation": orientation}
    file = tiff(samples, bits, 0 if inverted else 1, **options)
    share = samples / (2**bits - 1)
    assert_shows(file, over_white(1 - share if inverted else share, 1), orientation)


@given(
    kind=st.sampled_from(["RGB", "RGBA", "RGB by A", "CMYK"]),
    bits=st.sampled_from([8, 16]),
    order=st.sampled_from("<>"),
    deflate=st.booleans(),
    planar=st.booleans(),
    shape=shapes,
    orientation=orientations,
    seed=seeds,
)
def test_tiff_in_colors(kind, bits, order, deflate, planar, shape, orientation, seed):
    planar = planar and kind != "RGB by A"  # which Pillow reads compressed only
    channels = 3 if kind == "RGB" else 4
    samples = np.random.default_rng(seed).integers(0, 2**bits, (*shape, channels))
    share = samples / (2**bits - 1)
    if kind == "CMYK":
        expected = 255 * (1 - share[..., :3]) * (1 - share[..., 3:])
    elif kind == "RGB by A":
        samples[..., :3] = samples[..., :3] * share[..., 3:]
        expected = 255 * (samples[..., :3] / (2**bits - 1) + 1 - share[..., 3:])
    else:
        expected = over_white(share[..., :3], share[..., 3:] if channels == 4 else 1)
    file = tiff(
        samples,
        bits,
        5 if kind == "CMYK" else 2,
        order,
        extra={"RGBA": 2, "RGB by A": 1}.get(kind),
        deflate=deflate,
        planar=planar,
        orientation=orientation,
    )
    if planar and bits == 16:  # which Pillow reads as noise
        with pytest.raises(
            BrokenImageError, match="^x has planes that Pillow misreads"
        ):
            pixels(file)
        return
    within = {8: 0.5, 16: 1 if kind == "RGB" else 2.5}[bits]
    assert_shows(file, expected, orientation, within + (kind == "RGB by A"))


# Known values


def image_of(array, kind, **options):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(array)).save(stream, kind, **options)
    return stream.getvalue()


CORNERS = np.zeros((32, 48, 3), "uint8")
CORNERS[:16, :24], CORNERS[:16, 24:] = (250, 0, 0), (0, 250, 0)
CORNERS[16:, :24], CORNERS[16:, 24:] = (0, 0, 250), (250, 250, 0)
LOSSY = {"quality": 100, "subsampling": "4:4:4"}
WRITERS = {
    "JPEG": LOSSY,
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {"compression": "tiff_lzw"},
    "AVIF": LOSSY,
    "MPO": LOSSY,
}


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_is_turned_upright(kind, orientation):
    if kind in ("WEBP", "AVIF") and not features.check(kind.lower()):
        pytest.skip(f"Pillow is built without {kind}")
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = image_of(CORNERS, kind, exif=exif, **WRITERS[kind])
    assert_shows(file, CORNERS.astype(float), orientation, within=6)


@pytest.mark.parametrize(
    ("orientation", "rows"),
    [
        (1, "ab cd"),
        (3, "dc ba"),
        (2, "ba dc"),
        (4, "cd ab"),
        (5, "ac bd"),
        (6, "ca db"),
        (7, "db ca"),
        (8, "bd ac"),
    ],
)
def test_orientation_turns_as_the_standard_says(orientation, rows):
    stored = np.array([[10, 20], [30, 40]], "uint8")[..., None]
    wanted = [["abcd".index(x) * 10 + 10 for x in row] for row in rows.split()]
    by_exif = png(stored, orientation=orientation)
    by_tag = tiff(stored, order=">", orientation=orientation)
    for file in (by_exif, by_tag):
        assert pixels(file)[..., 0].tolist() == wanted


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\x7f"]
)
def test_unreadable_exif_data_do_not_matter(exif):
    file = image_of(CORNERS, "JPEG", exif=exif, **LOSSY)
    assert_shows(file, CORNERS.astype(float), within=6)


def test_a_ramp_of_16_bits_is_the_ramp_of_8_bits():
    ramp = np.tile(np.arange(256), (4, 1))[..., None]
    for factor, bits in ((1, 8), (257, 16)):
        for file in (png(ramp * factor, bits), tiff(ramp * factor, bits)):
            np.testing.assert_array_equal(pixels(file)[..., 1], ramp[..., 0])
    plain = b"P2 256 4 65535 " + b" ".join(b"%d" % (v * 257) for v in ramp.ravel())
    np.testing.assert_array_equal(pixels(plain)[..., 1], ramp[..., 0])
    # The range is the mode's, whatever values occur.
    assert pixels(png(ramp * 16, 16)).max() == round(255 * 16 / 257)


def test_transparency_is_laid_over_white():
    hidden = np.array([[[200, 100, 0, 0], [200, 100, 0, 255], [200, 100, 0, 51]]])
    wanted = [[[255, 255, 255], [200, 100, 0], [244, 224, 204]]]
    assert pixels(png(hidden)).tolist() == wanted
    assert np.asarray(decode(hidden.astype("uint8"), "x")).tolist() == wanted
    gray = hidden[..., [1, 3]]
    assert pixels(png(gray))[..., 0].tolist() == [[255, 100, 224]]
    gif = image_of(np.array([[7, 9]], "uint8"), "GIF", transparency=7)
    assert pixels(gif)[..., 0].tolist() == [[255, 9]]


def test_a_jpeg_of_a_printer_has_its_colors():
    ink = np.zeros((16, 16, 4), "uint8")
    ink[:, :8] = (255, 0, 0, 0)  # cyan, and half black beside
    ink[:, 8:] = (0, 0, 0, 128)
    stream = io.BytesIO()
    Image.fromarray(ink, "CMYK").save(stream, "JPEG", quality=100)
    found = pixels(stream.getvalue())
    np.testing.assert_allclose(found[4, 3], (0, 255, 255), atol=4)
    np.testing.assert_allclose(found[4, 12], (127, 127, 127), atol=4)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_the_first_frame_counts(kind):
    first, second = (Image.fromarray(np.full((8, 8), v, "uint8")) for v in (50, 200))
    stream = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    first.save(stream, kind, save_all=True, append_images=[second], **options)
    np.testing.assert_array_equal(pixels(stream.getvalue()), 50)


# What is refused


ONES = np.ones((2, 2, 1))


@pytest.mark.parametrize(
    ("file", "found"),
    [
        (tiff(ONES, 32, sample_format=3), "floating-point samples.*mode F"),
        (tiff(ONES, 32), "samples of 32 bits or signed .*mode I"),
        (tiff(ONES, 16, sample_format=2), "samples of 32 bits or signed .*mode I"),
        (tiff(ONES, 8, sample_format=2), "signed samples .*mode L"),
        (tiff(ONES.repeat(3, 2), photometric=8), "CIELAB samples .*mode LAB"),
        (b"Pf 1 1 -1.0 \0\0\0\0", "floating-point samples.*mode F"),
    ],
)
def test_samples_without_a_range_are_refused_by_name(file, found):
    message = f"^x has {found}.*; save it as RGB or gray of 8 or 16 bits.$"
    with pytest.raises(BrokenImageError, match=message):
        decode(file, "x")


@pytest.mark.parametrize("side", [11, 15])
def test_too_many_pixels_are_refused(monkeypatch, side):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    file = png(np.zeros((side, side, 1), int))
    with pytest.raises(
        BrokenImageError, match="^x has more than 100 pixels, the limit"
    ):
        decode(file, "x")
    with pytest.raises(
        BrokenImageError, match="^x has more than 100 pixels, the limit"
    ):
        decode_samples(file, "x")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode(file, "x").size == (side, side)


def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    for reads in (decode, decode_samples):
        with pytest.raises(BrokenImageError, match="^x is not a regular file.$"):
            reads(tmp_path / "x.png", "x")


def test_postscript_is_not_run(tmp_path):
    (tmp_path / "x.png").write_bytes(image_of(CORNERS, "EPS"))
    with pytest.raises(BrokenImageError, match="is not a readable image"):
        decode(tmp_path / "x.png", "x")


def test_samples_come_from_png_files_alone():
    jpeg = image_of(np.zeros((8, 8), "uint8"), "JPEG")
    with pytest.raises(BrokenImageError, match="^x is a JPEG file; save it as PNG"):
        decode_samples(jpeg, "x")
    for channels in (2, 3, 4):
        file = png(np.full((2, 2, channels), 3), 16)
        with pytest.raises(
            BrokenImageError, match="^x has several channels of 16 bits"
        ):
            decode_samples(file, "x")


def test_endings_are_those_of_formats_that_pillow_decodes():
    read = ".jpg .jpeg .jpe .jfif .png .bmp .gif .webp .tif .tiff .ppm .pgm .jp2 .mpo"
    assert images.endings() >= set(read.split())
    others = ".pdf .eps .ps .mpg .h5 .grib .wmf .xbm"
    assert not images.endings() & set(others.split())


@pytest.mark.parametrize(
    "mode, color, seen",
    [
        ("L", 200, (200, 200, 200)),
        ("LA", (0, 0), (255, 255, 255)),  # transparent black over white
        ("RGBA", (100, 50, 0, 51), (224, 214, 204)),  # a fifth of it over white
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("I;16", 65535, (255, 255, 255)),
        ("1", 1, (255, 255, 255)),
        ("P", 0, (255, 255, 255)),  # its first color is transparent
    ],
)
def test_an_image_of_pillow_shows_what_it_means(mode, color, seen):
    image = Image.new(mode, (3, 2), color)
    if mode == "P":
        image.putpalette([10, 20, 30])
        image.info["transparency"] = 0
    found = np.asarray(decode(image, "x"))
    np.testing.assert_array_equal(found, np.tile(np.array(seen, "uint8"), (2, 3, 1)))


def test_an_image_of_pillow_is_turned_as_it_says():
    image = Image.fromarray(np.arange(18, dtype="uint8").reshape(2, 3, 3))
    image.getexif()[0x0112] = 6  # its right side is up
    found = np.asarray(decode(image, "x"))
    np.testing.assert_array_equal(found, np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((2, 3, 5)), "x is an array of shape (2, 3, 5), but must have"),
        (np.zeros((0, 3, 3)), "x is an array of shape (0, 3, 3), but must have"),
        (np.zeros(3), "x is an array of shape (3,), but must have"),
        (np.full((2, 2, 3), 256), "x has values from 256 to 256, but they must be 0"),
        (np.full((2, 2, 3), np.nan), "x has values from nan to nan, but they must be"),
        (
            np.full((2, 2, 3), 0.5),
            "x has values from 0.5 to 0.5, but they must be 0-255; m",
        ),
        (np.zeros((2, 2, 3), bool), "x is an array of bool, not of numbers."),
        (
            {"path": "x.png"},
            "x is of type dict, but must be a path, enc",
        ),
    ],
)
def test_what_is_no_image_is_refused(array, message):
    with pytest.raises(BrokenImageError, match=f"^{re.escape(message)}"):
        decode(array, "x")


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint16"])
def test_arrays_of_other_dtypes_are_rounded(dtype):
    array = np.array([[[0, 1, 254.4], [254.6, 255, 7]]]).astype(dtype)
    expected = np.rint(array).astype("uint8")
    np.testing.assert_array_equal(np.asarray(decode(array, "x")), expected)


def test_an_image_is_cropped_and_resized():
    """The center of 8 columns, half of it, by boxes of 2x2: their mean.

    Pillow rounds after each axis.
    """
    values = np.random.default_rng(0).integers(0, 256, (8, 12, 3), "uint8")
    found = fit(Image.fromarray(values), (2, 2), 0.5, "box")
    center = values[2:6, 4:8].reshape(2, 2, 2, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(found, center, rtol=0, atol=1)
