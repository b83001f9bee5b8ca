"""What a source of weights says: what they are of, and the weights by our names."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from keras_cbvit.models.spec import ViTSpec


@dataclasses.dataclass
class Content:
    """Weights of a Vision Transformer, and what is known of it."""

    source: str
    """What messages call it."""
    weights: Mapping[str, Sequence[np.ndarray | None]]
    """By the path of their layer, in the order in which the layer creates them:
    `{"block_0/mlp/fc1": [kernel, bias], ...}`; `None` where one is missing."""
    spec: ViTSpec | None = None
    """What they are of; `None` if that is not known."""
    class_names: tuple[str, ...] | None = None
    """Of the head, in order; `None` if they are not known."""
    names: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """What the source calls the weights, by the path of their layer, if not as we."""
