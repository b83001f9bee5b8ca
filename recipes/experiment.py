"""What an experiment is: one frozen dataclass made of five small ones.

A file in `recipes/configs` builds it, the command line overrides any field by its
name, and `recipes.train.train` runs it.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from recipes.network import Network

Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]


@dataclasses.dataclass(frozen=True)
class Data:
    """The images: where they come from, and how they are fed."""

    dataset: str = "digits"
    """digits, a TFDS name, a folder of class folders, or an .npz file."""
    data_dir: Path | None = None
    """Where TFDS keeps its data sets; its own default if not given."""
    train_split: str = "train"
    test_split: str = "test"
    """The TFDS splits, or the subfolders of an image folder."""
    image_size: tuple[int, int] = (224, 224)
    """Height and width that every image is brought to."""
    crop_fraction: float = 1.0
    """The center's share of the side that is kept; DeiT evaluates with 0.875."""
    test_labels: Path | None = None
    """For a test folder without class folders, as ImageNet's: a text file with the
    class folder's name of each image, one in a line, in the order of the files."""
    strict: bool = False
    """Whether a picture that cannot be decoded stops the run; otherwise it is left
    out, named and counted."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images, in this order; DeiT's (paper, section 4)."""

    repeats: int = 3
    """How many times an image is in a batch, each time augmented differently."""
    random_resized_crop: bool = True
    """Whether to cut a box of 8-100 % of the area, of ratio 3/4-4/3, and resize it."""
    shift: int = 0
    """Up to so many pixels that images are moved by."""
    flip: bool = True
    """Whether to mirror each image with probability 1/2."""
    rand_augment: float = 9.0
    """RandAugment's mean magnitude, up to 10; 0 for none."""
    erasing: float = 0.25
    """Probability that a box of the image is filled with noise."""
    mixup_alpha: float = 0.8
    """Of the Beta distribution that images and labels are blended by; 0 for none."""
    cutmix_alpha: float = 1.0
    """Of the Beta distribution of the box's size that is pasted; 0 for none."""


NO_AUGMENTATION = Augmentation(1, False, 0, False, 0.0, 0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Training:
    """The optimization: AdamW, linear warm-up, cosine, as DeiT and the paper do it."""

    epochs: int = 300
    global_batch_size: int = 1024
    """Images of one step over all devices."""
    base_learning_rate: float = 1e-3
    """The peak for a batch of 1024 images; other batches scale it linearly."""
    warmup_epochs: int = 5
    warmup_learning_rate: float = 1e-6
    minimum_learning_rate: float = 1e-5
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    accumulation_steps: int = 1
    """Over how many parts of a batch the gradients are summed up, to save memory."""
    clip_norm: float | None = None
    """Greatest norm of all gradients together; DeiT does not clip."""
    ema_decay: float | None = None
    """Decay per step of a moving average of the weights, which is evaluated and saved
    beside them; DeiT takes 0.99996."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The run: on what, where to, and what becomes of it."""

    devices: int | None = None
    """How many devices of this machine; all GPUs, or one CPU, if not given. Without
    GPUs, logical CPU devices. torch takes one."""
    precision: Precision = "float32"
    seed: int = 0
    run_dir: Path = Path("runs/experiment")
    """Folder of checkpoints, logs and pictures. The same command resumes in it."""
    checkpoint_steps: int = 1000
    """A checkpoint is saved after so many steps, and after each epoch."""
    publish: str | None = None
    """Name to publish the trained model under, for instance vitcb_ti.cifar10."""
    weights_dir: Path = Path("weights")
    """Folder to publish into."""
    overwrite: bool = False
    """Whether to replace published weights of this name."""
    license: str = "Apache-2.0"
    """SPDX identifier of the published file's license."""
    smoke: bool = False
    """Two epochs of a few images, to see that everything runs; the run folder's name
    gets "_smoke" added."""

    @property
    def folder(self):
        """The run folder."""
        name = f"{self.run_dir.name}_smoke" if self.smoke else self.run_dir.name
        return self.run_dir.with_name(name)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that decides what a training run computes."""

    network: Network = Network()
    data: Data = Data()
    augmentation: Augmentation = Augmentation()
    training: Training = Training()
    run: Run = Run()
