"""The options of an experiment, as one frozen dataclass made of five smaller ones.

A file in `recipes/configs` builds an experiment, the command line overrides any field
by name, and `recipes.train.train` runs it. Each task in `recipes.tasks` has its own
subclasses of `Data`, `Augmentation` and `Training`. Annotations give valid ranges.
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
    """The data set and its preprocessing."""

    dataset: str = ""
    """Data set: a TFDS name, the path of a folder, or another source of the task."""
    # Not a `Path`, which would turn s3://bucket into s3:/bucket.
    data_dir: str | None = None
    """Folder or URL of the TFDS data sets; TFDS's default if not given."""
    train_split: str = "train"
    """Training split of the TFDS data set, or training subfolder."""
    test_split: str = "test"
    """Test split of the TFDS data set, or test subfolder."""
    image_size: tuple[int, int] = (224, 224)
    """Height and width of the images in a batch, in pixels."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Augmentation of the training images, applied in this order."""


@dataclasses.dataclass(frozen=True)
class Training:
    """The optimizer and its schedule."""

    global_batch_size: WholeNumber = 1024
    """Images per step, summed over all devices."""
    weight_decay: AtLeast0 = 0.05
    """Weight decay of the kernels; norms, biases and position embeddings have none."""
    layer_decay: Annotated[float, number_between(0.001, 1)] | None = None
    """Layer-wise learning rate decay, 0.001 to 1. The last norm and the head train at
    the full rate; each block, and below them the embedding, at this factor times the
    rate of the layer above. BEiT and MAE fine-tune with 0.65 to 0.75."""
    freeze: Literal["backbone"] | None = None
    """Part of the model to freeze: backbone trains only the head."""
    lora_rank: WholeNumber | None = None
    """Rank of LoRA in the blocks. LoRA, the head and Λ are trained; the rest of the
    backbone is frozen. Saving merges LoRA into the kernels."""
    lora_targets: tuple[str, ...] = TARGETS
    """Names of the dense layers that get LoRA."""
    lora_blocks: tuple[int, ...] | None = None
    """Indices of the blocks that get LoRA, counted from 0, in ascending order; all
    blocks if not given."""
    head_warmup_epochs: AtLeast0 = 0
    """Number of initial epochs that train only the head."""

    accumulation_steps = 1
    clip_norm = None
    ema_decay = None
    anneal_context = None


@dataclasses.dataclass(frozen=True)
class Run:
    """Hardware, input pipeline, and output folders."""

    devices: int | None = None
    """Number of local devices: GPUs, or logical CPU devices on a machine without GPUs;
    all GPUs or one CPU if not given. torch supports one."""
    workers: Annotated[int, number_between(0)] | None = None
    """Number of processes that decode and augment images; 0 for threads, which are as
    fast on up to eight cores. If not given, one process per core on machines with more
    than eight cores, or threads if the images are in memory. The number does not
    affect the training results."""
    feed: Literal["grain", "tf.data"] = "grain"
    """Input pipeline of the training images: grain, for every backend; or tf.data, for
    TensorFlow, with KerasCV's RandAugment, which differs from DeiT's. tf.data
    cannot shift images, and a resumed run draws new random numbers for RandAugment."""
    data_service: str | None = None
    """Address of a tf.data service, grpc://HOST:PORT, whose workers prepare the images;
    requires --feed tf.data. The workers must see the files under the same paths."""
    precision: Precision = "float32"
    """Precision of the computation; the weights are always float32."""
    keep_freed_memory: bool = True
    """Whether to keep freed memory for the next step on CPUs (Linux with glibc), which
    is faster, but takes the step's peak of memory throughout."""
    seed: int = 0
    """Seed of the initial weights, the order of the images, and augmentation."""
    run_dir: Path = Path("runs/experiment")
    """Folder for checkpoints, logs and figures. Repeat the command to resume a run."""
    checkpoint_steps: WholeNumber = 1000
    """Number of steps between checkpoints; each epoch also ends with a checkpoint."""
    tensorboard: bool = True
    """Whether to write TensorBoard event files."""
    wandb: bool = False
    """Whether to log the settings and the metrics of each epoch to Weights & Biases;
    requires the extra wandb. Environment variables such as WANDB_PROJECT apply."""
    report: bool = True
    """Whether to write report.html, for which the trained model is evaluated on the
    test images once more."""
    publish: str | None = None
    """Name under which to publish the trained model, for instance vitcb_ti.cifar10."""
    weights_dir: Path = Path("weights")
    """Folder in which to publish."""
    overwrite: bool = False
    """Whether to replace published weights of the same name."""
    license: str = "Apache-2.0"
    """SPDX identifier of the license of the published weights."""
    smoke: bool = False
    """Whether to train only two epochs on a few images to check the setup; appends
    "_smoke" to the name of the run folder."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        name = f"{self.run_dir.name}_smoke" if self.smoke else self.run_dir.name
        return self.run_dir.with_name(name)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All options of a training run."""

    network: Network
    data: Data
    augmentation: Augmentation
    training: Training
    run: Run = Run()

    def check(self) -> None:
        """Raises a ValueError for the first field whose value is out of range."""
        for group in (self.data, self.augmentation, self.training, self.run):
            check_fields(group)


def with_changes(experiment, **groups):
    """Returns a copy of an experiment with some fields changed, given by group."""
    return dataclasses.replace(
        experiment,
        **{
            name: dataclasses.replace(getattr(experiment, name), **changes)
            for name, changes in groups.items()
        },
    )
