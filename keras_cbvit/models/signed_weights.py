"""Files of weights that show when they are damaged."""

import os
from pathlib import Path

from keras_cbvit.pretrained.contents import check_h5, sign


class SignedWeights:
    """A `keras.Model` whose `.weights.h5` files have a digest of their content.

    HDF5 has no checksum as Keras writes it: a damaged file would give other weights.
    """

    def save_weights(self, filepath, *args, **kwargs):
        """Keras's; a `.weights.h5` file on this machine is signed."""
        before = _state(filepath)
        super().save_weights(filepath, *args, **kwargs)
        if _state(filepath) != before:  # or the user has kept the old file
            sign(Path(filepath))

    def load_weights(self, filepath, *args, **kwargs):
        """Keras's; a `.weights.h5` file on this machine that is damaged is refused.

        Raises:
            ValueError: if the file is damaged.
        """
        if _state(filepath) is not None:
            check_h5(Path(filepath))
        return super().load_weights(filepath, *args, **kwargs)


def _state(filepath):
    """What changes when a `.weights.h5` file is written; `None` of anything else."""
    is_path = isinstance(filepath, str | os.PathLike)
    path = Path(filepath) if is_path else Path()
    if not path.name.endswith(".weights.h5") or not path.is_file():
        return None
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino
