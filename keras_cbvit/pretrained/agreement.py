"""Whether two models predict the same."""

import keras
import numpy as np

from keras_cbvit.internals import layers_within

# How far the float32 model may be from the given one, relative to its largest
# prediction: rounding of float32, and of 8 bits of mantissa through a dozen blocks.
TOLERANCE = {"float32": 1e-5, "float64": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}


def random_images(model: keras.Model) -> np.ndarray:
    """Four random images, float32 of values 0-255, of the size that a model takes.

    Raises:
        ValueError: if it takes any.
    """
    shape = (4, *model.input_shape[1:])
    if None in shape:
        raise ValueError("This model takes images of any size; give images=....")
    return np.random.default_rng(0).integers(0, 256, shape).astype("float32")


def check_agreement(
    model: keras.Model, other: keras.Model, images: np.ndarray, what: str
) -> None:
    """Raises a ValueError unless two models predict the same of some images.

    Args:
        model: the model, whose precision decides how far the other may be from it.
        other: another one.
        images: of values 0-255, of shape `(batch, height, width, channels)`.
        what: what messages call the other.
    """
    # A functional model's own policy says nothing of its layers'.
    computed_in = {each.compute_dtype for each in layers_within(model)}
    tolerance = max(TOLERANCE.get(dtype, 0) for dtype in computed_in)
    expected, found = (
        keras.ops.convert_to_numpy(m(images, training=False)) for m in (model, other)
    )
    difference = np.abs(expected - found).max() / max(np.abs(expected).max(), 1e-6)
    if not difference <= tolerance:
        raise ValueError(
            f"The predictions of {what} differ from those of the model by "
            f"{difference:.2g} of the largest, more than {tolerance}."
        )
