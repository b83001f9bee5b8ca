"""What an experiment is: one frozen dataclass made of five small ones.

A file in `recipes/configs` builds it, the command line overrides any field by its
name, and `recipes.train.train` runs it.
"""

import dataclasses
from pathlib import Path
from typing import Literal

Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]


@dataclasses.dataclass(frozen=True)
class Network:
    """The model, in the words of `keras_cbvit.ViTCB`."""

    model: Literal["ViTCB", "ViTCB_Ti", "ViTCB_S", "ViTCB_B"] = "ViTCB_Ti"
    patch_size: int = 16
    hidden_dim: int | None = None
    """For ViTCB, like depth, num_heads and mlp_ratio; the sizes have their own."""
    depth: int | None = None
    num_heads: int | None = None
    mlp_ratio: float | None = None
    pooling: Literal["token", "avg"] = "token"
    broadcast: Literal["cb", "cbs"] | None = "cb"
    """cb, cbs (CB_S), or None for the plain ViT."""
    broadcast_place: Literal["mlp_end", "mlp_front", "mlp_mid", "msa_end", "both"] = (
        "mlp_end"
    )
    broadcast_blocks: Literal["all", "upper"] | tuple[int, ...] = "all"
    context: Literal["mean", "max", "token"] = "mean"
    initial_scale: float = 0.0
    """What every channel of CB_S's Λ starts from."""
    ablation: str | None = None
    """One of `keras_cbvit.ablations`, in the place of CB; with broadcast None."""
    drop_path_rate: float = 0.1
    remat: bool = False
    """Whether to compute the inside of the blocks again in the backward pass, which
    takes less memory and more time."""
    weights: str | None = None
    """Weights to start from, a full name or a path of a .keras file. The network is
    theirs; of these options only drop_path_rate and remat count then."""


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
    """The centre's share of the side that is kept; DeiT evaluates with 0.875."""
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
    """The optimisation: AdamW, linear warm-up, cosine, as DeiT and the paper do it."""

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
    licence: str = "Apache-2.0"
    """SPDX identifier of the published file's licence."""
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


def build_model(network, data, classes, dtype, classifier_activation=None):
    """The experiment's model; it gives logits unless told otherwise."""
    import keras_cbvit
    from keras_cbvit.models.ablations import ablate

    options = dataclasses.asdict(network)
    builder = getattr(keras_cbvit, options.pop("model"))
    ablation, initial_scale = options.pop("ablation"), options.pop("initial_scale")
    if network.weights is not None:
        if ablation:
            raise ValueError(
                f"ablation={ablation!r} starts from random weights; leave out weights="
                f"{network.weights!r}."
            )
        builder = keras_cbvit.ViTCB
        options = {k: options[k] for k in ("weights", "drop_path_rate", "remat")}
    for size in ("hidden_dim", "depth", "num_heads", "mlp_ratio"):
        if options.get(size) is None:
            options.pop(size, None)
        elif builder is not keras_cbvit.ViTCB:
            raise ValueError(
                f"{size}={options[size]} goes with --model ViTCB; {network.model} has "
                "a size of its own."
            )
    model = builder(
        **options,
        input_shape=(*data.image_size, 3),
        include_top=True,
        classes=classes,
        classifier_activation=classifier_activation,
        dtype=dtype,
    )
    if initial_scale and network.weights is None:
        _start_scales(model, initial_scale)
    return ablate(model, ablation) if ablation else model


def _start_scales(model, value):
    """Has every Λ of a CB_S model start from a value."""
    from keras_cbvit.analysis import scale_layers

    try:
        layers = scale_layers(model)
    except ValueError as error:
        raise ValueError(f"initial_scale={value} has no effect: {error}") from error
    for layer in layers.values():
        layer.channel_scale.assign([value] * layer.channel_scale.shape[0])
