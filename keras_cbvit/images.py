"""Decodes and preprocesses images from paths, bytes and arrays.

Pillow decodes images on every backend, so that models see the same pixels. This module
does not import Keras, since worker processes use it.
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
"""The background of transparent images: white."""
# EPS would run Ghostscript, Pillow cannot decode MPEG, and it inverts XBM masks.
_UNSUPPORTED = ("EPS", "MPEG", "XBM")
# Transpositions by EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow scales gray of 2 and 4 bits to 8 bits by these factors.
_FACTORS = {"L;2": 85, "L;4": 17}
# Modes whose samples have no defined range.
_UNKNOWN = {
    "I": "samples of 32 bits or signed",
    "F": "floating-point samples",
    "LAB": "CIELAB samples",
}
_UNSIGNED = (1, 4)  # TIFF's SampleFormat; 4 is undefined


class BrokenImageError(ValueError):
    """Raised if an image cannot be decoded; the message names the image."""


@functools.cache
def formats() -> tuple[str, ...]:
    """Returns Pillow's names of the supported formats.

    All formats with a file extension that Pillow itself decodes; common ones first,
    since they are tried in this order, whatever the name of a file.
    """
    Image.init()
    with_ending = set(Image.registered_extensions().values()) - set(_UNSUPPORTED)
    return tuple(
        name
        for name in sorted(Image.ID, key=lambda name: name not in ("JPEG", "PNG"))
        if name in with_ending and not _is_stub(Image.OPEN[name][0])
    )


def _is_stub(reader):
    """Returns whether a reader of Pillow requires an external decoder."""
    return isinstance(reader, type) and issubclass(reader, ImageFile.StubImageFile)


@functools.cache
def endings() -> frozenset[str]:
    """Returns the supported file extensions, lowercase, with the dot."""
    known = {*formats(), "MPO"}  # the JPEG reader reads MPO
    extensions = Image.registered_extensions().items()
    return frozenset(ending for ending, name in extensions if name in known)


def decode(source: Source, name: str) -> Image.Image:
    """Decodes an image to upright 8-bit RGB.

    - Applies the EXIF orientation; ignores unreadable EXIF data.
    - Scales 16-bit gray from 0–65535 and 12-bit TIFF from 0–4095, whatever values
      occur. For other 16-bit channels, Pillow keeps the upper 8 bits.
    - Blends transparency with white, `BACKGROUND`.
    - Uses the first of several frames or pages. Ignores color profiles.

    Args:
        source: a path, encoded bytes, a `PIL.Image` of any mode, or an array of shape
            `(height, width)` or `(height, width, channels)` with 1, 3 or 4 channels and
            values 0-255, which are rounded.
        name: name of the image in messages.

    Returns:
        A `PIL.Image` of mode RGB.

    Raises:
        BrokenImageError: if the image cannot be decoded, has more pixels than Pillow's
            `MAX_IMAGE_PIXELS`, has samples without a defined range (32 bits, signed or
            floating point), is in CIELAB, or is an array of another shape or range.
        OSError: if the file cannot be read.
    """
    with _add_name(name):
        if isinstance(source, np.ndarray):
            return _to_rgb(_from_array(source))
        with _open(source) as image:
            raw_mode = _raw_mode(image)
            image.load()  # reads and decodes the whole image
            return _apply_orientation(_to_rgb(image, raw_mode), image)


def decode_samples(
    source: str | os.PathLike | bytes | np.ndarray, name: str
) -> np.ndarray:
    """Decodes the upright samples of a PNG file, such as pixel labels, unscaled.

    Gray of any depth, including 1, 2 and 4 bits, is not scaled; a palette image gives
    indices.

    Args:
        source: a path, encoded bytes, or an array, which is returned.
        name: name of the image in messages.

    Returns:
        An array of shape `(height, width)` or `(height, width, channels)`, uint8, or
        uint16 for 16-bit gray.

    Raises:
        BrokenImageError: if the image cannot be decoded, has another format, or has
            several channels of 16 bits.
        OSError: if the file cannot be read.
    """
    if isinstance(source, np.ndarray):
        return source
    with _add_name(name), _open(source) as image:
        if image.format != "PNG":
            raise BrokenImageError(
                f"is a {image.format} file; save it as PNG, which keeps every value."
            )
        raw_mode = _raw_mode(image)
        image.load()
        if ";16" in raw_mode and not image.mode.startswith("I"):
            raise BrokenImageError(
                "has several channels of 16 bits, of which Pillow reads 8 bits; save "
                "it with one channel."
            )
        samples = np.asarray(_apply_orientation(image, image))
    if samples.dtype == bool:
        return samples.astype("uint8")
    return samples // _FACTORS.get(raw_mode, 1)


def fit(
    image: Image.Image,
    size: Sequence[Any],
    crop_fraction: float = 1.0,
    interpolation: str = "bicubic",
) -> np.ndarray:
    """Center-crops and resizes an image.

    Takes the largest center crop with the aspect ratio of `size`, crops it further to
    `crop_fraction`, and resizes with antialiasing.

    Args:
        image: the image, in RGB.
        size: `(height, width)` of the result.
        crop_fraction: fraction of height and width to keep, at most 1.
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
    """Decodes and preprocesses an image for a model.

    Args:
        source: as for `decode`.
        how: a `Preprocessing` with an image size.
        name: name of the image in messages.

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
    """Normalizes pixels of values 0–255, of any shape with channels last.

    Returns them unchanged if the model normalizes (`Preprocessing.model_normalizes`).
    """
    if how.model_normalizes:
        return pixels
    mean, std = (np.array(each, "float32") for each in (how.mean, how.std))
    return (pixels.astype("float32") / 255 - mean) / std


@contextlib.contextmanager
def _add_name(name):
    """Converts errors to BrokenImageErrors that start with the name of the image."""
    try:
        yield
    except BrokenImageError as error:
        raise BrokenImageError(f"{name} {error}") from None
    except Exception as error:  # Pillow raises many types, even SyntaxError
        # A missing file, disk errors or a lack of memory are not the image's fault.
        if isinstance(error, MemoryError) or getattr(error, "errno", None):
            raise
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, UnidentifiedImageError):  # its message has an object's id
            reason = "damaged or not in a supported format"
        raise BrokenImageError(f"{name} is not a readable image ({reason}).") from error


def name_of(source: Any, otherwise: str) -> str:
    """Returns the name of an image for messages: its path, else `otherwise`."""
    return str(source) if isinstance(source, str | os.PathLike) else otherwise


def _from_array(array):
    """Converts an array to a `PIL.Image`."""
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise BrokenImageError(
            f"is an array of shape {array.shape}, but must have shape (height, width, "
            "channels) with 1, 3 or 4 channels."
        )
    if array.dtype != np.uint8:
        array = _round(array)
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)


def _round(array):
    """Rounds an array of values 0-255 to uint8."""
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
            f"has values from {lowest:g} to {highest:g}, but they must be 0-255; "
            "multiply values of 0-1 by 255."
        )
    return rounded


def _open(source):
    """Opens an image and reads its header; returns a context manager."""
    if isinstance(source, Image.Image):
        return contextlib.nullcontext(source)  # the caller closes it
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
        f"has more than {limit:,} pixels, the limit of PIL.Image.MAX_IMAGE_PIXELS; "
        "resize it."
    )


def _raw_mode(image):
    """Returns Pillow's raw mode of an image that is not loaded yet."""
    tile = getattr(image, "tile", None)  # only images from files have one
    arguments = tile[0][3] if tile else None
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _apply_orientation(image, file):
    """Applies the EXIF orientation of a loaded file to an image."""
    try:
        orientation = file.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # unreadable EXIF data
        return image
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image, raw_mode=""):
    """Converts a loaded image to 8-bit RGB."""
    _check_range(image)
    if image.mode.startswith("I"):
        image = _to_8_bits(image, raw_mode)
    if image.has_transparency_data:
        return _blend_with_background(image, raw_mode)
    return image if image.mode == "RGB" else image.convert("RGB")


def _check_range(image):
    """Raises a BrokenImageError if the range of a loaded image's samples is unknown."""
    found = image.mode
    what = _UNKNOWN.get(found)
    if found == "I" and image.format in ("PNG", "PPM"):  # always 16 bits
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
            f"has {what} (Pillow's mode {found}), which cannot be converted to 8 bits "
            "reliably; save it as RGB or gray of 8 or 16 bits."
        )


def _to_8_bits(image, raw_mode):
    """Converts 16-bit gray to 8 bits, with alpha if a value is transparent."""
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


def _blend_with_background(image, raw_mode):
    if image.mode == "RGB" and ";16" in raw_mode:
        raise BrokenImageError(
            "has a transparent color of 16 bits per channel, of which Pillow reads 8; "
            "save it with 8 bits per channel or with an alpha channel."
        )
    if raw_mode in _FACTORS:
        image = image.copy()  # it may belong to the caller
        image.info["transparency"] *= _FACTORS[raw_mode]
    if image.mode == "La":
        image = image.convert("LA")  # Pillow cannot convert La to RGBA
    image = image.convert("RGBA")
    background = Image.new("RGB", image.size, BACKGROUND)
    background.paste(image, mask=image)
    return background
