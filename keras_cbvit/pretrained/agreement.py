"""Compares the predictions of two models."""

import keras
import numpy as np

from keras_cbvit.internals import layers_within

# Tolerance by the model's dtype, relative to the largest prediction: rounding in
# float32, or in half precision through a dozen blocks.
TOLERANCE = {"float32": 1e-5, "float64": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}


def random_images(model: keras.Model) -> np.ndarray:
    """Returns four random images of a model's size, float32 with values 0-255.

    Raises:
        ValueError: if the model takes images of any size.
    """
    shape = (4, *model.input_shape[1:])
    if None in shape:
        raise ValueError("The model takes images of any size; pass images.")
    return np.random.default_rng(0).integers(0, 256, shape).astype("float32")


def check_agreement(
    model: keras.Model, other: keras.Model, images: np.ndarray, what: str
) -> None:
    """Raises a ValueError unless two models predict the same for some images.

    Args:
        model: the reference model, whose precision sets the tolerance.
        other: the model to compare.
        images: array of shape `(batch, height, width, channels)` with values 0-255.
        what: name of the other model in messages.
    """
    # The policy of a functional model may differ from those of its layers.
    computed_in = {each.compute_dtype for each in layers_within(model)}
    tolerance = max(TOLERANCE.get(dtype, 0) for dtype in computed_in)
    expected, found = (
        keras.ops.convert_to_numpy(m(images, training=False)) for m in (model, other)
    )
    difference = np.abs(expected - found).max() / max(np.abs(expected).max(), 1e-6)
    if not difference <= tolerance:
        raise ValueError(
            f"The predictions of {what} differ from those of the model by "
            f"{difference:.2g} relative to the largest, more than {tolerance}."
        )
