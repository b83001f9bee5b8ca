"""The options of training segmentation models.

The defaults are XCiT's recipe for UperNet on ADE20K, which the paper uses.
"""

import dataclasses

from .. import experiment
from ..experiment import AtLeast0, Share, WholeNumber


@dataclasses.dataclass(frozen=True)
class Data(experiment.Data):
    """The images and segmentation maps, and their preprocessing."""

    dataset: str = "scene_parse150"
    """Data set: a folder with SPLIT/images and SPLIT/labels, or with images/SPLIT and
    annotations/SPLIT as in ADE20K; or a TFDS name. The folder may be relative to
    --data-dir."""
    test_split: str = "val"
    """Test split of the TFDS data set, or test subfolder."""
    image_size: tuple[int, int] = (512, 512)
    """Height and width of the training crops in pixels; test images are not cropped."""
    class_names: tuple[str, ...] = ()
    """Names of the classes in the order of their labels, without the ignored label."""
    ignored_label: int = 255
    """Label of ignored pixels. Labels above it are shifted down by one: with 0, as in
    ADE20K, label 1 is the first class."""
    scale: tuple[int, int] = (512, 2048)
    """Short and long side in pixels. Images are resized, keeping their aspect ratio,
    to the largest size that exceeds neither."""


@dataclasses.dataclass(frozen=True)
class Augmentation(experiment.Augmentation):
    """Augmentation of the training images, applied in this order."""

    resize: tuple[float, float] = (0.5, 2.0)
    """Range of the random factor on `scale`, uniformly distributed."""
    max_class_fraction: Share = 0.75
    """Maximum fraction of one class among the labeled pixels of a crop, 0 to 1; other
    crops are redrawn, up to ten times. 1 accepts any crop."""
    flip: bool = True
    """Whether to mirror images horizontally with probability 1/2."""
    photometric: bool = True
    """Whether to randomly change brightness, contrast, saturation and hue, each with
    probability 1/2."""


NO_AUGMENTATION = Augmentation((1.0, 1.0), 1.0, False, False)


@dataclasses.dataclass(frozen=True)
class Training(experiment.Training):
    """The optimizer, AdamW, and its schedule: linear warmup, then linear decay to 0."""

    iterations: WholeNumber = 160_000
    """Number of iterations."""
    global_batch_size: WholeNumber = 16
    """Images per iteration, summed over all devices."""
    learning_rate: AtLeast0 = 6e-5
    """Peak learning rate."""
    warmup_iterations: AtLeast0 = 1500
    """Number of iterations of linear warmup."""
    warmup_ratio: Share = 1e-6
    """Learning rate of the first iteration as a fraction of the peak, 0 to 1."""
    weight_decay: AtLeast0 = 0.01
    """Weight decay of the kernels; norms, biases and position embeddings have none."""
    auxiliary_weight: AtLeast0 = 0.4
    """Weight of the auxiliary head's loss."""
    evaluation_iterations: WholeNumber = 4000
    """Number of iterations between evaluations and checkpoints, one epoch of the log;
    must divide --iterations."""

    @property
    def epochs(self) -> int:
        """Number of epochs in the log."""
        return self.iterations // self.evaluation_iterations
