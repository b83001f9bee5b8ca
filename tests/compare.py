"""Comparisons of tensors of whichever backend with known numbers."""

import keras
import numpy as np


def to_numpy(tensor):
    """The values of a tensor; those of half precision as float32."""
    values = keras.ops.convert_to_numpy(tensor)
    half = keras.backend.standardize_dtype(values.dtype) in ("bfloat16", "float16")
    return values.astype("float32") if half else values


def dtype_of(tensor):
    return keras.backend.standardize_dtype(tensor.dtype)


def assert_equal(found, expected):
    np.testing.assert_array_equal(to_numpy(found), expected)


def assert_close(found, expected, atol=1e-6):
    np.testing.assert_allclose(to_numpy(found), expected, rtol=0, atol=atol)
