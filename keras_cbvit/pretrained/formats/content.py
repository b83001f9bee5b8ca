"""The content of a source of weights: its spec, and the weights by our names."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from keras_cbvit.models.spec import ViTSpec


@dataclasses.dataclass
class Content:
    """Weights of a Vision Transformer, with its spec and class names."""

    source: str
    """Name of the source in messages."""
    weights: Mapping[str, Sequence[np.ndarray | None]]
    """Arrays by layer path, in the order in which the layer creates them:
    `{"block_0/mlp/fc1": [kernel, bias], ...}`; `None` for a missing one."""
    spec: ViTSpec | None = None
    """The spec of the model; `None` if unknown."""
    class_names: tuple[str, ...] | None = None
    """Class names of the head, in order; `None` if unknown."""
    names: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """The source's names of the weights by layer path, if they differ from ours."""
