"""What a segmentation experiment is: five small frozen dataclasses in one.

As `recipes.experiment` has them for classification, whose `Run` it is; a file in
`recipes/configs/segmentation` builds it, `recipes.segment` runs it. The defaults are
those of ADE20K (XCiT's recipe for UperNet, which the paper trains with).
"""

import dataclasses
from pathlib import Path

from recipes.experiment import Run
from recipes.network import Network


@dataclasses.dataclass(frozen=True)
class Data:
    """The pictures and the class of each pixel: where from, and how they are fed."""

    dataset: str = "scene_parse150"
    """A folder with SPLIT/images and SPLIT/labels, or with images/SPLIT and
    annotations/SPLIT as ADE20K has; or a TFDS name."""
    data_dir: Path | None = None
    """The folder that this folder is in, or where TFDS keeps its data sets."""
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
    """Height and width of the crops in training; test pictures are predicted whole."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training pictures, in this order."""

    resize: tuple[float, float] = (0.5, 2.0)
    """Range of the factor on `scale`, uniform."""
    most_of_one_class: float = 0.75
    """A crop whose counted pixels are of one class to this share or more is drawn
    again, up to ten times; 1 for any crop."""
    flip: bool = True
    """Whether to mirror each picture with probability 1/2."""
    photometric: bool = True
    """Whether to change brightness, contrast, saturation and hue, each with probability
    1/2."""


NO_AUGMENTATION = Augmentation((1.0, 1.0), 1.0, False, False)


@dataclasses.dataclass(frozen=True)
class Training:
    """The optimization: AdamW, linear warm-up, polynomial decay of power 1 to 0."""

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

    @property
    def epochs(self):
        """Of the log."""
        return self.iterations // self.evaluation_iterations

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
