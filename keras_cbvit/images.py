"""The one decoder of images: from a path, bytes or an array to a model's pixels.

Images are decoded by Pillow whatever the backend, so that a model sees the same pixels
on each. This module imports no Keras: worker processes use it, too.
"""

import contextlib
import functools
import io
import os
import stat
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

Source = str | os.PathLike | bytes | np.ndarray | Image.Image
INTERPOLATIONS = tuple(how.name.lower() for how in Image.Resampling)
BACKGROUND = (255, 255, 255)
"""What is seen where an image is transparent: white."""
# Decoding EPS would run Ghostscript; of MPEG, a video, Pillow decodes nothing; XBM is
# a mask without colors, which Pillow shows the other way round than X11.
_NOT_READ = ("EPS", "MPEG", "XBM")
# How an image is turned upright, by its EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow multiplies gray of 2 and 4 bits by, to fill 8.
_FACTORS = {"L;2": 85, "L;4": 17}
# Modes whose samples have no range of their own.
_UNKNOWN = {
    "I": "samples of 32 bits or signed",
    "F": "floating-point samples",
    "LAB": "CIELAB samples",
}
_UNSIGNED = (1, 4)  # TIFF's SampleFormat; 4 is undefined


class BrokenImageError(ValueError):
    """An image cannot be decoded; the message names it."""


@functools.cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read, whatever a file's name says.

    Those that have an ending and that Pillow itself decodes into pixels. The usual
    ones come first, since they are tried in this order.
    """
    Image.init()
    with_ending = set(Image.registered_extensions().values()) - set(_NOT_READ)
    return tuple(
        name
        for name in sorted(Image.ID, key=lambda name: name not in ("JPEG", "PNG"))
        if name in with_ending and not _is_stub(Image.OPEN[name][0])
    )


def _is_stub(reader):
    """Whether a reader of Pillow needs another program's decoder."""
    return isinstance(reader, type) and issubclass(reader, ImageFile.StubImageFile)


@functools.cache
def endings() -> frozenset[str]:
    """The endings of the names of files that are read, lower case, with the dot."""
    known = {*formats(), "MPO"}  # which the reader of JPEG reads
    extensions = Image.registered_extensions().items()
    return frozenset(ending for ending, name in extensions if name in known)


def decode(source: Source, name: str) -> Image.Image:
    """Decodes an image as it is meant to be seen: upright, in RGB of 8 bits.

    - It is turned as its EXIF orientation says. Unreadable EXIF data say nothing.
    - 16-bit gray is scaled from 0–65535, a 12-bit TIFF from 0–4095, whatever values
      occur. Of other 16-bit channels Pillow keeps the upper 8 bits.
    - Transparency is laid over white, `BACKGROUND`.
    - Of several frames or pages, the first one counts. Color profiles do not.

    Args:
        source: its path, its encoded bytes, a `PIL.Image` of any mode, or an array of
            shape `(height, width)` or `(height, width, channels)` of 1, 3 or 4
            channels and of values 0-255, which are rounded.
        name: what messages call it.

    Returns:
        A `PIL.Image` of mode RGB.

    Raises:
        BrokenImageError: if it cannot be decoded, has more pixels than Pillow's
            `MAX_IMAGE_PIXELS`, or has samples that do not say what is white: of 32
            bits, signed or floating point; or is in CIELAB; or is an array of another
            shape or of other values.
        OSError: if its file cannot be read.
    """
    with _naming(name):
        if isinstance(source, np.ndarray):
            return _rgb(_of_array(source))
        with _opened(source) as image:
            raw_mode = _raw_mode(image)
            image.load()  # reads and decodes all of it
            return _upright(_rgb(image, raw_mode), image)


def decode_samples(
    source: str | os.PathLike | bytes | np.ndarray, name: str
) -> np.ndarray:
    """Decodes the numbers in a PNG file as they are, upright: labels of pixels.

    Gray of any depth, also of 1, 2 and 4 bits, is not scaled; of a palette these are
    the indices.

    Args:
        source: its path, its encoded bytes, or an array, which is returned.
        name: what messages call it.

    Returns:
        An array of shape `(height, width)` or `(height, width, channels)`, uint8, or
        uint16 of 16-bit gray.

    Raises:
        BrokenImageError: if it cannot be decoded, is in another format or has several
            channels of 16 bits.
        OSError: if its file cannot be read.
    """
    if isinstance(source, np.ndarray):
        return source
    with _naming(name), _opened(source) as image:
        if image.format != "PNG":
            raise BrokenImageError(
                f"is a {image.format} file, whatever its name says; save it as PNG, "
                "which keeps every value."
            )
        raw_mode = _raw_mode(image)
        image.load()
        if ";16" in raw_mode and not image.mode.startswith("I"):
            raise BrokenImageError(
                "has several channels of 16 bits, of which Pillow reads 8; save it "
                "with one channel."
            )
        samples = np.asarray(_upright(image, image))
    if samples.dtype == bool:
        return samples.astype("uint8")
    return samples // _FACTORS.get(raw_mode, 1)


def fit(
    image: Image.Image,
    size: Sequence[Any],
    crop_fraction: float = 1.0,
    interpolation: str = "bicubic",
) -> np.ndarray:
    """Crops and resizes an image to a size.

    The largest part of the image that has the wanted proportions is cut from its
    center, of it the center `crop_fraction`, which is resized with antialiasing.

    Args:
        image: the image, in RGB.
        size: the wanted `(height, width)`.
        crop_fraction: share of height and width that is kept, at most 1.
        interpolation: one of `INTERPOLATIONS`.

    Returns:
        A uint8 array of shape `(height, width, 3)`.
    """
    height, width = size
    if image.size != (width, height) or crop_fraction != 1:
        how = Image.Resampling[interpolation.upper()]
        image = ImageOps.fit(image, (width, height), how, (1 - crop_fraction) / 2)
    return np.asarray(image)


def preprocess(source: Source, how: Any, name: str) -> np.ndarray:
    """An image as a model takes it.

    Args:
        source: as of `decode`.
        how: a `Preprocessing` that has an image size.
        name: what messages call the image.

    Returns:
        An array of shape `(height, width, 3)`: uint8, or float32 where the model does
        not normalize.

    Raises:
        BrokenImageError, OSError: as `decode`.
    """
    image = decode(source, name)
    pixels = fit(image, how.image_size, how.crop_fraction, how.interpolation)
    return normalize(pixels, how)


def normalize(pixels: np.ndarray, how: Any) -> np.ndarray:
    """Pixels of values 0–255 as a model takes them, of any shape with channels last.

    They stay as they are where the model normalizes them, as the `Preprocessing` says.
    """
    if how.normalized:
        return pixels
    mean, std = (np.array(each, "float32") for each in (how.mean, how.std))
    return (pixels.astype("float32") / 255 - mean) / std


@contextlib.contextmanager
def _naming(name):
    """Has the message of whatever goes wrong with one image begin with its name."""
    try:
        yield
    except BrokenImageError as error:
        raise BrokenImageError(f"{name} {error}") from None
    except Exception as error:  # Pillow raises many kinds, SyntaxError among them
        # A missing file, a disk that fails, no memory: more than one bad image.
        if isinstance(error, MemoryError) or getattr(error, "errno", None):
            raise
        what = f"{type(error).__name__}: {error}"
        if isinstance(error, UnidentifiedImageError):  # Pillow's text shows an object
            what = "damaged, or of no format that is read"
        raise BrokenImageError(f"{name} is not a readable image ({what}).") from error


def name_of(source: Any, otherwise: str) -> str:
    """What messages call an image: its path, or another name if it has none."""
    return str(source) if isinstance(source, str | os.PathLike) else otherwise


def _of_array(array):
    """An array as a `PIL.Image`."""
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise BrokenImageError(
            f"is an array of shape {array.shape}, which must be (height, width, "
            "channels) with 1, 3 or 4 channels."
        )
    if array.dtype != np.uint8:
        array = _rounded(array)
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)


def _rounded(array):
    """An array of values 0-255 in uint8."""
    if array.dtype.kind not in "iuf":
        raise BrokenImageError(f"is an array of {array.dtype}, not of numbers.")
    lowest, highest = array.min(), array.max()
    if not (lowest >= 0 and highest <= 255):  # nan is neither
        raise BrokenImageError(
            f"has values from {lowest:g} to {highest:g}, but they must be 0-255."
        )
    rounded = np.rint(array).astype("uint8")
    if highest <= 1 and (array != rounded).any():
        raise BrokenImageError(
            f"has values from {lowest:g} to {highest:g}, which look like 0-1, but they "
            "must be 0-255; multiply by 255."
        )
    return rounded


def _opened(source):
    """An image whose header is read, as a context manager."""
    if isinstance(source, Image.Image):
        return contextlib.nullcontext(source)  # its owner closes it
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    elif not isinstance(source, str | os.PathLike):
        raise BrokenImageError(
            f"is of type {type(source).__name__}, but must be a path, encoded bytes, "
            "an array or a PIL.Image."
        )
    else:
        kind = os.stat(source).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            # Opening a named pipe would wait for a writer.
            raise BrokenImageError("is not a regular file.")
    limit = Image.MAX_IMAGE_PIXELS
    try:
        image = Image.open(source, formats=formats())
        width, height = image.size
        if limit is None or width * height <= limit:
            return image
        image.close()
    except Image.DecompressionBombError:
        pass
    raise BrokenImageError(
        f"has more than {limit:,} pixels, which are not decoded; make it smaller."
    )


def _raw_mode(image):
    """How samples are stored in an image that is not loaded yet, in Pillow's words."""
    tile = getattr(image, "tile", None)  # an image that was not read has none
    arguments = tile[0][3] if tile else None
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _upright(image, file):
    """An image, turned as its loaded file says."""
    try:
        orientation = file.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # of many kinds; the pixels are good
        return image
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _rgb(image, raw_mode=""):
    """A loaded image in RGB of 8 bits, upright or not."""
    _refuse_unknown_range(image)
    if image.mode.startswith("I"):
        image = _gray(image, raw_mode)
    if image.has_transparency_data:
        return _over_background(image, raw_mode)
    return image if image.mode == "RGB" else image.convert("RGB")


def _refuse_unknown_range(image):
    """Refuses a loaded image whose samples do not say what is black and white."""
    found = image.mode
    what = _UNKNOWN.get(found)
    if found == "I" and image.format in ("PNG", "PPM"):  # of 16 bits, by the formats
        what = None
    elif found.startswith("I;16") and image.format == "FITS":
        what = "signed samples"
    elif image.format == "TIFF":
        tags = image.tag_v2
        kinds = tags.get(ExifTags.Base.SampleFormat, (1,))
        planar = tags.get(ExifTags.Base.PlanarConfiguration) == 2
        bits = max(tags.get(ExifTags.Base.BitsPerSample, (1,)))
        if what is None and not all(kind in _UNSIGNED for kind in kinds):
            what = "signed samples"
        elif planar and (bits > 8 or found not in ("RGB", "RGBA", "CMYK")):
            what = "planes that Pillow misreads"
    if what:
        raise BrokenImageError(
            f"has {what} (Pillow's mode {found}), for which there is no one way to 8 "
            "bits; save it as RGB or gray of 8 or 16 bits."
        )


def _gray(image, raw_mode):
    """Gray of 16 bits in 8, with an alpha channel if one value is transparent."""
    highest = 4095 if raw_mode == "I;12" else 65535
    values = np.asarray(image).astype("uint32")
    key = image.info.get("transparency")
    alpha = None if key is None else np.where(values == key, 0, 255).astype("uint8")
    tags = getattr(image, "tag_v2", {})
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # 0 is white
        values = highest - values
    gray = (values * 255 + highest // 2) // highest
    image = Image.fromarray(gray.astype("uint8"))
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    return image


def _over_background(image, raw_mode):
    if image.mode == "RGB" and ";16" in raw_mode:
        raise BrokenImageError(
            "has a transparent color of 16 bits a channel, of which Pillow reads 8; "
            "save it with 8 bits a channel or with an alpha channel."
        )
    if raw_mode in _FACTORS:
        image = image.copy()  # it may be the caller's
        image.info["transparency"] *= _FACTORS[raw_mode]
    if image.mode == "La":
        image = image.convert("LA")  # from which alone Pillow knows the way
    image = image.convert("RGBA")
    background = Image.new("RGB", image.size, BACKGROUND)
    background.paste(image, mask=image)
    return background
