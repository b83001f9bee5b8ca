"""The options of training classifiers."""

import dataclasses
from pathlib import Path
from typing import Annotated

from keras_cbvit.arguments import number_between, whole_number

from .. import experiment
from ..experiment import AtLeast0, Share, WholeNumber


@dataclasses.dataclass(frozen=True)
class Data(experiment.Data):
    """The data set and its preprocessing."""

    dataset: str = "digits"
    """Data set: digits, a TFDS name, a folder of class folders, or an .npz file."""
    crop_fraction: float = 1.0
    """Fraction of each side that the center crop of test images keeps, 0 to 1; DeiT
    evaluates with 0.875."""
    test_labels: Path | None = None
    """Text file of labels for a test folder without class folders, such as ImageNet's:
    the class folder name of each image, one per line, in the order of the files."""
    strict: bool = False
    """Whether to stop at an image that cannot be decoded; otherwise the image is
    skipped with a warning and counted."""


@dataclasses.dataclass(frozen=True)
class Augmentation(experiment.Augmentation):
    """Augmentation of the training images, applied in this order (paper, section 4).

    The defaults are DeiT's. Pillow augments each image on the host; mixup and CutMix
    run in the training step on the device.
    """

    repeats: WholeNumber = 3
    """Number of differently augmented copies of an image in a batch."""
    random_resized_crop: bool = True
    """Whether to crop 8-100 % of the area with aspect ratio 3/4-4/3 and resize it."""
    shift: Annotated[int, number_between(0)] = 0
    """Maximum random shift in pixels; 0 for none."""
    flip: bool = True
    """Whether to mirror images horizontally with probability 1/2."""
    rand_augment: Annotated[float, number_between(0, 10)] = 9.0
    """Mean magnitude of RandAugment, 0 to 10; 0 for none."""
    erasing: Share = 0.25
    """Probability of random erasing, which fills a box of the image with noise."""
    mixup_alpha: AtLeast0 = 0.8
    """Alpha of mixup's Beta distribution; 0 for none."""
    cutmix_alpha: AtLeast0 = 1.0
    """Alpha of CutMix's Beta distribution; 0 for none."""


NO_AUGMENTATION = Augmentation(1, False, 0, False, 0.0, 0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Training(experiment.Training):
    """The optimizer, AdamW, and its schedule: linear warmup, then cosine decay.

    The defaults are those of DeiT and the paper.
    """

    epochs: WholeNumber = 300
    """Number of epochs."""
    base_learning_rate: AtLeast0 = 1e-3
    """Peak learning rate for a batch of 1024 images; it scales linearly with the
    batch size."""
    warmup_epochs: AtLeast0 = 5
    """Number of epochs of linear warmup."""
    warmup_learning_rate: AtLeast0 = 1e-6
    """Learning rate at the start of the warmup."""
    minimum_learning_rate: AtLeast0 = 1e-5
    """Learning rate at the end of the cosine decay."""
    label_smoothing: Share = 0.1
    """Label smoothing, 0 to 1."""
    accumulation_steps: Annotated[int, whole_number] = 1
    """Number of parts of a batch over which to accumulate gradients, to save memory."""
    clip_norm: AtLeast0 | None = None
    """Maximum global gradient norm of the whole batch; no clipping if not given, as in
    DeiT."""
    ema_decay: Share | None = None
    """Decay per step of an exponential moving average of the weights, which is
    evaluated and saved as well; DeiT uses 0.99996."""
    anneal_context: Annotated[int, whole_number] | None = None
    """Number of updates over which Λ of a broadcast="cbs" model increases from 0 to 1.
    Λ is not trained, and the final model is saved as the equivalent broadcast="cb"
    model."""
