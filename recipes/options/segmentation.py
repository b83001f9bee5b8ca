"""The options of training segmentation models.

The defaults are those of ADE20K (XCiT's recipe for UperNet, which the paper trains
with).
"""

import dataclasses

from .. import experiment
from ..experiment import AtLeast0, Share, WholeNumber


@dataclasses.dataclass(frozen=True)
class Data(experiment.Data):
    """The images and the class of each pixel: where from, and how they are fed."""

    dataset: str = "scene_parse150"
    """A folder with SPLIT/images and SPLIT/labels, or with images/SPLIT and
    annotations/SPLIT as ADE20K has; or a TFDS name. It may be in data_dir."""
    test_split: str = "val"
    image_size: tuple[int, int] = (512, 512)
    """Height and width of the crops in training; test images are predicted whole."""
    class_names: tuple[str, ...] = ()
    """In the order of the labels, without the one that is ignored."""
    ignored_label: int = 255
    """The label of pixels that do not count; labels above it are one more than their
    class, so that with 0 (ADE20K) label 1 is the first class."""
    scale: tuple[int, int] = (512, 2048)
    """Images are resized to this short side, or this long side if that is smaller;
    their proportions are kept."""


@dataclasses.dataclass(frozen=True)
class Augmentation(experiment.Augmentation):
    """What is done to training images, in this order."""

    resize: tuple[float, float] = (0.5, 2.0)
    """Range of the factor on `scale`, uniform."""
    most_of_one_class: Share = 0.75
    """A crop whose counted pixels are of one class to this share or more is drawn
    again, up to ten times; 1 for any crop."""
    flip: bool = True
    """Whether to mirror each image with probability 1/2."""
    photometric: bool = True
    """Whether to change brightness, contrast, saturation and hue, each with probability
    1/2."""


NO_AUGMENTATION = Augmentation((1.0, 1.0), 1.0, False, False)


@dataclasses.dataclass(frozen=True)
class Training(experiment.Training):
    """The optimization: AdamW, linear warm-up, polynomial decay of power 1 to 0."""

    iterations: WholeNumber = 160_000
    global_batch_size: WholeNumber = 16
    """Images of one iteration over all devices."""
    learning_rate: AtLeast0 = 6e-5
    warmup_iterations: AtLeast0 = 1500
    warmup_ratio: Share = 1e-6
    """Share of the learning rate that the first iteration has."""
    weight_decay: AtLeast0 = 0.01
    """Of kernels; not of norms, biases and position embedding."""
    auxiliary_weight: AtLeast0 = 0.4
    """Of the auxiliary head's loss."""
    evaluation_iterations: WholeNumber = 4000
    """The model is evaluated, logged and saved after so many iterations, which are an
    epoch of the log; they divide the iterations."""

    @property
    def epochs(self) -> int:
        """Of the log."""
        return self.iterations // self.evaluation_iterations
