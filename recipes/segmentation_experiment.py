"""What a segmentation experiment is: five small frozen dataclasses in one.

As `recipes.experiment` has them for classification, whose `Run` it is; a file in
`recipes/configs/segmentation` builds it, `recipes.segment` runs it. The defaults are
those of ADE20K (XCiT's recipe for UperNet, which the paper trains with).
"""

import dataclasses
from pathlib import Path
from typing import Literal

from recipes.experiment import Run


@dataclasses.dataclass(frozen=True)
class Network:
    """UperNet on a ViT, in the words of `keras_cbvit.UperNet`."""

    model: Literal["UperNet_ViTCB_Ti", "UperNet_ViTCB_S", "UperNet_ViTCB_B"] = (
        "UperNet_ViTCB_S"
    )
    broadcast: Literal["cb", "cbs"] | None = "cb"
    """cb, cbs (CB_S), or None for the plain ViT."""
    backbone_weights: str | None = None
    """Weights that the ViT starts from, a full name or a path of a .keras file; random
    ones if not given."""


@dataclasses.dataclass(frozen=True)
class Data:
    """The pictures and the class of each pixel: where from, and how they are fed."""

    dataset: str = "scene_parse150"
    """A folder with SPLIT/images and SPLIT/labels, or with images/SPLIT and
    annotations/SPLIT as ADE20K has; or a TFDS name."""
    data_dir: Path | None = None
    """Where TFDS keeps its data sets; its own default if not given."""
    train_split: str = "train"
    test_split: str = "val"
    class_names: tuple[str, ...] = ()
    """In the order of the labels, without the one that is ignored."""
    ignored_label: int = 255
    """The label of pixels that do not count; labels above it are one more than their
    class, so that with 0 (ADE20K) label 1 is the first class."""
    scale: tuple[int, int] = (512, 2048)
    """Pictures are brought to this short side, or this long side if that is smaller;
    their proportions are kept."""
    image_size: tuple[int, int] = (512, 512)
    """Height and width of the network's images: of the crops in training."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training pictures, in this order."""

    resize: tuple[float, float] = (0.5, 2.0)
    """Range of the factor on `scale`, uniform."""
    most_of_one_class: float = 0.75
    """A crop whose counted pixels are of one class to this share or more is drawn
    again, up to ten times; 1 for any crop."""
    flip: bool = True
    """Whether to mirror every other picture."""
    photometric: bool = True
    """Whether to change brightness, contrast, saturation and hue, each of every other
    picture."""


NO_AUGMENTATION = Augmentation((1.0, 1.0), 1.0, False, False)


@dataclasses.dataclass(frozen=True)
class Training:
    """The optimisation: AdamW, linear warm-up, polynomial decay of power 1 to 0."""

    iterations: int = 160_000
    global_batch_size: int = 16
    """Images of one iteration over all devices."""
    learning_rate: float = 6e-5
    warmup_iterations: int = 1500
    warmup_ratio: float = 1e-6
    """Share of the learning rate that the first iteration has."""
    weight_decay: float = 0.01
    """Of kernels; not of norms, biases and position embedding."""
    auxiliary_weight: float = 0.4
    """Of the auxiliary head's loss."""
    evaluation_iterations: int = 4000
    """The model is evaluated, logged and saved after so many iterations, which are an
    epoch of the log; they divide the iterations."""

    # What DeiT's training can and this one does not: no options, but `fit` asks.
    accumulation_steps = 1
    clip_norm = None
    ema_decay = None


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that decides what a training run computes."""

    network: Network = Network()
    data: Data = Data()
    augmentation: Augmentation = Augmentation()
    training: Training = Training()
    run: Run = Run()
