"""The options of training classifiers."""

import dataclasses
from pathlib import Path
from typing import Annotated

from keras_cbvit.arguments import number_between, whole_number

from .. import experiment
from ..experiment import AtLeast0, Share, WholeNumber


@dataclasses.dataclass(frozen=True)
class Data(experiment.Data):
    """The images: where they come from, and how they are fed."""

    dataset: str = "digits"
    """digits, a TFDS name, a folder of class folders, or an .npz file."""
    crop_fraction: float = 1.0
    """The centered share of the side that is kept; DeiT evaluates with 0.875."""
    test_labels: Path | None = None
    """For a test folder without class folders, as ImageNet's: a text file with the
    class folder's name of each image, one in a line, in the order of the files."""
    strict: bool = False
    """Whether an image that cannot be decoded stops the run; otherwise it is left
    out, named and counted."""


@dataclasses.dataclass(frozen=True)
class Augmentation(experiment.Augmentation):
    """What is done to training images, in this order; DeiT's (paper, section 4).

    Pillow does it to each image on the host, but for mixup and CutMix, which are part
    of the training step on the device.
    """

    repeats: WholeNumber = 3
    """How many times an image is in a batch, each time augmented differently."""
    random_resized_crop: bool = True
    """Whether to cut a box of 8-100 % of the area, of ratio 3/4-4/3, and resize it."""
    shift: Annotated[int, number_between(0)] = 0
    """Up to so many pixels that images are moved by."""
    flip: bool = True
    """Whether to mirror each image with probability 1/2."""
    rand_augment: Annotated[float, number_between(0, 10)] = 9.0
    """RandAugment's mean magnitude, up to 10; 0 for none."""
    erasing: Share = 0.25
    """Probability that a box of the image is filled with noise."""
    mixup_alpha: AtLeast0 = 0.8
    """Of the Beta distribution that images and labels are blended by; 0 for none."""
    cutmix_alpha: AtLeast0 = 1.0
    """Of the Beta distribution of the box's size that is pasted; 0 for none."""


NO_AUGMENTATION = Augmentation(1, False, 0, False, 0.0, 0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Training(experiment.Training):
    """The optimization: AdamW, linear warm-up, cosine, as DeiT and the paper do it."""

    epochs: WholeNumber = 300
    base_learning_rate: AtLeast0 = 1e-3
    """The peak for a batch of 1024 images; other batches scale it linearly."""
    warmup_epochs: AtLeast0 = 5
    warmup_learning_rate: AtLeast0 = 1e-6
    minimum_learning_rate: AtLeast0 = 1e-5
    label_smoothing: Share = 0.1
    accumulation_steps: Annotated[int, whole_number] = 1
    """Over how many parts of a batch the gradients are summed up, to save memory."""
    clip_norm: AtLeast0 | None = None
    """Greatest norm of all gradients together, of the whole batch; DeiT does not
    clip."""
    ema_decay: Share | None = None
    """Decay per step of a moving average of the weights, which is evaluated and saved
    beside them; DeiT takes 0.99996."""
    anneal_context: Annotated[int, whole_number] | None = None
    """Over how many updates the Λ of a model of broadcast="cbs" goes from 0 to 1. It is
    not trained, and the model becomes one of broadcast="cb" in the end, which is
    exactly the same."""
