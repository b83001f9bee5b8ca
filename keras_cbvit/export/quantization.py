"""int8 by the tools of the runtimes themselves, calibrated on images."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

BATCH = 32
"""Images that are compared at once."""


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """A runtime's own tool."""

    packages: tuple[str, ...]
    """What it needs beside the format's, by the names pip knows."""
    quantize: Callable[[Path, np.ndarray], None]
    """Quantizes a file in place, calibrated on images."""

    def check(self, model: keras.Model, images: np.ndarray | None) -> None:
        """Raises a ValueError unless a model can be quantized with some images."""
        if images is None:
            raise ValueError("quantize='int8' needs images=... to calibrate with.")
        if getattr(model, "num_classes", None) is None:
            raise ValueError(
                "quantize='int8' is for models that classify, whose classes can be "
                "compared; this one gives features."
            )


def top1_agreement(
    model: keras.Model, run: Callable[[np.ndarray], np.ndarray], images: np.ndarray
) -> float:
    """The share of images, or of pixels, whose most probable class is the same."""
    same = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        expected = keras.ops.convert_to_numpy(model(batch, training=False))
        same.append(expected.argmax(-1) == run(batch).argmax(-1))
    return float(np.concatenate(same).mean())


QUANTIZERS: dict[str, Quantizer] = {}
