"""Type aliases for annotations."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import keras

Tensor: TypeAlias = Any
"""A tensor of any backend, an array, or a symbolic Keras tensor."""
Shape: TypeAlias = tuple[int | None, ...]
"""The shape of a tensor; `None` for unknown sizes."""
DType: TypeAlias = str | keras.dtype_policies.DTypePolicy | None
"""A dtype or a dtype policy; `None` for Keras's global one."""
Places: TypeAlias = keras.layers.Layer | Sequence[keras.layers.Layer] | None
"""The layers at a place of a block: one, several in order, or none."""
