"""Image files made by hand from samples, and what they show: no library reads here."""

import struct
import zlib

import numpy as np

# Where the first row and the first column of the stored samples are seen, by EXIF's
# orientation (CIPA DC-008, tag 274).
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def shown(samples, orientation):
    """Stored samples, of shape `(rows, columns, ...)`, as they are to be seen."""
    first_row, first_column = SIDES[orientation]
    if first_row in ("left", "right"):
        samples = np.swapaxes(samples, 0, 1)
    if "bottom" in (first_row, first_column):
        samples = samples[::-1]
    if "right" in (first_row, first_column):
        samples = samples[:, ::-1]
    return samples


def over_white(color, alpha):
    """Float RGB of 0–255 from color of 0–1, gray or RGB, and alpha of 0–1."""
    color = np.broadcast_to(color, (*color.shape[:2], 3))
    return 255 * (color * alpha + 1 - alpha)


def png(samples, bits=8, palette=None, transparency=b"", orientation=None):
    """A PNG file.

    Args:
        samples: integers of shape `(height, width, channels)`: gray, gray with alpha,
            RGB or RGBA; indices, if there is a palette.
        bits: of a sample.
        palette: colors, uint8 of shape `(colors, 3)`.
        transparency: content of the tRNS chunk.
        orientation: EXIF's.
    """
    height, width, channels = samples.shape
    kind = 3 if palette is not None else {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    chunks = [_chunk(b"IHDR", header)]
    if palette is not None:
        chunks.append(_chunk(b"PLTE", palette.astype("uint8").tobytes()))
    if transparency:
        chunks.append(_chunk(b"tRNS", transparency))
    if orientation:
        chunks.append(_chunk(b"eXIf", _exif(orientation)))
    rows = (b"\0" + _packed(row.ravel(), bits) for row in samples)
    chunks.append(_chunk(b"IDAT", zlib.compress(b"".join(rows))))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + _chunk(b"IEND", b"")


def _packed(values, bits):
    """Samples of so many bits each, the highest first, filled up to whole bytes."""
    shifts = np.arange(bits)[::-1]
    return np.packbits((values.astype("int64")[:, None] >> shifts) & 1).tobytes()


def _chunk(name, content):
    length, checksum = len(content), zlib.crc32(name + content)
    return struct.pack(">I", length) + name + content + struct.pack(">I", checksum)


def _exif(orientation):
    """TIFF's header and one directory with one tag."""
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)


def tiff(
    samples,
    bits=8,
    photometric=1,
    order="<",
    sample_format=None,
    extra=None,
    orientation=None,
    deflate=False,
    planar=False,
):
    """A TIFF file.

    Args:
        samples: numbers of shape `(height, width, channels)`.
        bits: of a sample: 8, 16 or 32; 12 of one channel and an even width.
        photometric: 0 if 0 is white, 1 if it is black, 2 of RGB, 5 of CMYK.
        order: of bytes, `"<"` or `">"`.
        sample_format: 1 unsigned, 2 signed, 3 floating point.
        extra: what the last channel is: 1 alpha the colors are multiplied by, 2 alpha.
        orientation: tag 274.
        deflate: whether it is compressed.
        planar: whether each channel is a strip of its own.
    """
    height, width, channels = samples.shape
    planes = np.moveaxis(samples, 2, 0) if planar else [samples]
    if bits == 12:
        strips = [_packed(plane.ravel(), 12) for plane in planes]
    else:
        kind = {1: "u", 2: "i", 3: "f"}[sample_format or 1]
        dtype = f"{order}{kind}{bits // 8}"
        strips = [np.ascontiguousarray(plane, dtype).tobytes() for plane in planes]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
    shorts = {
        258: [bits] * channels,
        259: [8 if deflate else 1],
        262: [photometric],
        274: [orientation],
        277: [channels],
        284: [2 if planar else 1],
        338: [extra],
        339: [sample_format] * channels,
    }
    tags = {key: ("H", v) for key, v in shorts.items() if v[0] is not None}
    starts = 8 + np.cumsum([0, *map(len, strips)])
    tags |= {256: ("I", [width]), 257: ("I", [height]), 278: ("I", [height])}
    tags |= {273: ("I", starts[:-1]), 279: ("I", [len(strip) for strip in strips])}
    directory, beyond = struct.pack(f"{order}H", len(tags)), b""
    first_beyond = starts[-1] + 2 + 12 * len(tags) + 4
    for key, (kind, values) in sorted(tags.items()):
        content = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(content) > 4:
            place = struct.pack(f"{order}I", first_beyond + len(beyond))
            beyond, content = beyond + content, place
        type_number = {"H": 3, "I": 4}[kind]
        directory += struct.pack(f"{order}HHI", key, type_number, len(values))
        directory += content.ljust(4, b"\0")
    header = {"<": b"II*\0", ">": b"MM\0*"}[order]
    header += struct.pack(f"{order}I", starts[-1])
    return header + b"".join(strips) + directory + bytes(4) + beyond
