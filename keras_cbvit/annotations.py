"""What annotations of this package say beside Python's own types."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import keras

Tensor: TypeAlias = Any
"""A tensor of any backend, an array, or a symbolic tensor of Keras."""
Shape: TypeAlias = tuple[int | None, ...]
"""The shape of a tensor; `None` where a size is unknown."""
DType: TypeAlias = str | keras.dtype_policies.DTypePolicy | None
"""A dtype or a dtype policy; `None` for Keras's global one."""
Places: TypeAlias = keras.layers.Layer | Sequence[keras.layers.Layer] | None
"""The layers at a place of a block: one, several in order, or none."""
