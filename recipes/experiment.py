"""What an experiment is: one frozen dataclass made of five small ones.

A file in `recipes/configs` builds it, the command line overrides any field by its
name, and `recipes.train.train` runs it. Data, augmentation and training are those of a
task, `recipes.tasks`. A field's annotation says which values it may have.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from keras_cbvit.arguments import check_fields, number_between, whole_number
from keras_cbvit.models.lora import TARGETS

from .network import Network

Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
AtLeast0 = Annotated[float, number_between(0)]
Share = Annotated[float, number_between(0, 1)]
WholeNumber = Annotated[int, whole_number]


@dataclasses.dataclass(frozen=True)
class Data:
    """The images: where they come from, and how they are fed."""

    dataset: str = ""
    """A TFDS name or the path of a folder, among others."""
    # Not a `Path`, which would leave one slash of s3://bucket.
    data_dir: str | None = None
    """Where TFDS keeps its data sets, a folder or a URL; its own default if not
    given."""
    train_split: str = "train"
    test_split: str = "test"
    """The TFDS splits, or the subfolders of a folder."""
    image_size: tuple[int, int] = (224, 224)
    """Height and width of the images of a batch."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images, in this order."""


@dataclasses.dataclass(frozen=True)
class Training:
    """The optimization."""

    global_batch_size: WholeNumber = 1024
    """Images of one step over all devices."""
    weight_decay: AtLeast0 = 0.05
    """Of kernels; not of norms, biases and position embedding."""
    layer_decay: Annotated[float, number_between(0.001, 1)] | None = None
    """Layer-wise decay of the learning rate, of which the last norm and the head have
    all, the last block this share, the block before it the share of the share, and so
    on to the embedding; BEiT and MAE fine-tune with 0.65 to 0.75."""
    freeze: Literal["backbone"] | None = None
    """Whether the backbone stays as the weights have it, and the head alone is
    trained."""
    lora_rank: WholeNumber | None = None
    """Rank of LoRA in the blocks. It is trained with the head and Λ; the rest of the
    backbone is frozen. The saved model has LoRA merged into its kernels."""
    lora_targets: tuple[str, ...] = TARGETS
    """The names of the dense layers that get LoRA."""
    lora_blocks: tuple[int, ...] | None = None
    """Indices of the blocks that get LoRA, from 0 in ascending order; all if not
    given."""
    head_warmup_epochs: AtLeast0 = 0
    """Epochs at the beginning in which the head alone is trained, before the backbone
    is, too."""

    accumulation_steps = 1
    clip_norm = None
    ema_decay = None
    anneal_context = None


@dataclasses.dataclass(frozen=True)
class Run:
    """The run: on what, where to, and what becomes of it."""

    devices: int | None = None
    """How many devices of this machine; all GPUs, or one CPU, if not given. Without
    GPUs, logical CPU devices. torch takes one."""
    workers: Annotated[int, number_between(0)] | None = None
    """Processes that decode and augment images; 0 for threads, which are as fast with
    up to eight cores. If not given, a process for each core where there are more and
    the images do not lie in memory. It does not change what is trained."""
    feed: Literal["grain", "tf.data"] = "grain"
    """What prepares the training images: grain, on every backend; or tf.data, on
    TensorFlow, with RandAugment of KerasCV, which is not DeiT's exactly. It cannot
    shift images, and a run that is resumed has other random draws of RandAugment."""
    data_service: str | None = None
    """Of tf.data: the address of a tf.data service, grpc://HOST:PORT, whose workers
    prepare the images. They must find the files at the same paths."""
    precision: Precision = "float32"
    seed: int = 0
    run_dir: Path = Path("runs/experiment")
    """Folder of checkpoints, logs and figures. The same command resumes in it."""
    checkpoint_steps: WholeNumber = 1000
    """A checkpoint is saved after so many steps, and after each epoch."""
    tensorboard: bool = True
    """Whether TensorBoard's events are written."""
    wandb: bool = False
    """Whether Weights & Biases gets the settings and the epochs; needs the extra
    wandb. Its environment variables, such as WANDB_PROJECT, apply."""
    report: bool = True
    """Whether the finished model is measured on the test images once more, for
    report.html."""
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
    def folder(self) -> Path:
        """The run folder."""
        name = f"{self.run_dir.name}_smoke" if self.smoke else self.run_dir.name
        return self.run_dir.with_name(name)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that decides what a training run computes."""

    network: Network
    data: Data
    augmentation: Augmentation
    training: Training
    run: Run = Run()

    def check(self) -> None:
        """Raises a ValueError on the first value that makes no sense by itself."""
        for group in (self.data, self.augmentation, self.training, self.run):
            check_fields(group)


def with_changes(experiment, **groups):
    """An experiment with other values of some fields, by their groups."""
    return dataclasses.replace(
        experiment,
        **{
            name: dataclasses.replace(getattr(experiment, name), **changes)
            for name, changes in groups.items()
        },
    )
