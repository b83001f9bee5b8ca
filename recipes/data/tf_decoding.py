"""Decoding of JPEG and PNG by TensorFlow, with the results of `keras_cbvit.images`.

This module imports TensorFlow, so it is imported only on use.
"""

import tensorflow as tf

# Orientation in the first directory of EXIF, or else in XMP. \C matches a byte.
ORIENTATION = (
    rb"^\C*?(?:(?:Exif\x00\x00|eXIf)(?:"
    rb"II\*\x00\x08\x00\x00\x00\C\C(?:\C{12})*?\x12\x01\x03\x00\x01\x00\x00\x00"
    rb"([\x01-\x08])|"
    rb"MM\x00\*\x00\x00\x00\x08\C\C(?:\C{12})*?\x01\x12\x00\x03\x00\x00\x00\x01\x00"
    rb"([\x01-\x08]))|"
    rb"tiff:Orientation(?:=.|>)([1-8]))\C*$"
)
HEAD = 2**16  # number of bytes of a file in which to search for the orientation


def decode(encoded):
    """Decodes an image like `keras_cbvit.images`: uint8, upright, RGB.

    Args:
        encoded: the bytes of a JPEG or PNG file; an array is returned unchanged.

    Raises:
        tf.errors.InvalidArgumentError: if the image cannot be decoded, or has another
            format.
    """
    if encoded.dtype != tf.string:
        return encoded
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        # The method of Pillow's decoder.
        lambda: tf.io.decode_jpeg(encoded, 3, dct_method="INTEGER_ACCURATE"),
        lambda: _decode_png(encoded),
    )
    return _upright(image, encoded)


def _decode_png(encoded):
    signature = tf.strings.substr(encoded, 0, 8) == b"\x89PNG\r\n\x1a\n"
    tf.debugging.Assert(signature, ["neither JPEG nor PNG"])
    color_type = tf.strings.substr(encoded, 25, 1)
    head = tf.strings.substr(encoded, 0, HEAD)
    transparent = (
        (color_type == b"\4")
        | (color_type == b"\6")
        | tf.strings.regex_full_match(head, rb"\C*tRNS\C*")
    )

    def over_white():
        image = tf.cast(tf.io.decode_png(encoded, 4), "int32")
        color, alpha = image[..., :3], image[..., 3:]
        return tf.cast((color * alpha + 255 * (255 - alpha) + 127) // 255, "uint8")

    # Decoding opaque images of less than 8 bits to four channels gives wrong results.
    return tf.cond(transparent, over_white, lambda: tf.io.decode_png(encoded, 3))


def _upright(image, encoded):
    """Rotates and mirrors a decoded image according to the orientation in its file."""
    head = tf.strings.substr(encoded, 0, HEAD)
    found = tf.strings.regex_replace(head, ORIENTATION, rb"\1\2\3")
    number = tf.io.decode_raw(tf.strings.substr(found, 0, 1), "uint8")[0] & 15
    number = tf.where(tf.strings.length(found) == 1, number, 1)

    def is_in(*numbers):
        return tf.reduce_any(number == tf.constant(numbers, "uint8"))

    def mirror(image, condition, axis):
        return tf.cond(condition, lambda: tf.reverse(image, [axis]), lambda: image)

    image = tf.cond(
        is_in(5, 6, 7, 8), lambda: tf.transpose(image, (1, 0, 2)), lambda: image
    )
    image = mirror(image, is_in(2, 3, 6, 7), 1)
    return mirror(image, is_in(3, 4, 7, 8), 0)
