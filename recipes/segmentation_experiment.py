"""What a segmentation experiment is: five small frozen dataclasses in one.

As `recipes.experiment` has them for classification, whose `Run` it is; a file in
`recipes/configs/segmentation` builds it, `recipes.segment` runs it. The defaults are
those of ADE20K (XCiT's recipe for UperNet, which the paper trains with).
"""

import dataclasses
from pathlib import Path
from typing import Literal

from recipes.experiment import Run

SIZES = ("hidden_dim", "depth", "num_heads", "mlp_ratio", "blocks", "channels")


@dataclasses.dataclass(frozen=True)
class Network:
    """UperNet on a ViT, in the words of `keras_cbvit.UperNet` and `ViTCB`."""

    model: Literal[
        "UperNet", "UperNet_ViTCB_Ti", "UperNet_ViTCB_S", "UperNet_ViTCB_B"
    ] = "UperNet_ViTCB_S"
    patch_size: int = 16
    """Weights have their own; another one than 16 must be theirs."""
    hidden_dim: int | None = None
    """For UperNet, like the five that follow; the sizes have their own, and so have
    weights, but for blocks and channels."""
    depth: int | None = None
    num_heads: int | None = None
    mlp_ratio: float | None = None
    blocks: tuple[int, ...] | None = None
    """The four blocks, counted from 0, after which features are taken."""
    channels: int | None = None
    """Of UperNet's head."""
    broadcast: Literal["cb", "cbs"] | None = "cb"
    """cb, cbs (CB_S), or None for the plain ViT."""
    drop_path_rate: float = 0.05
    """XCiT has 0.0 for Ti and 0.05 for S; ours for B is 0.1."""
    weights: str | None = None
    """Weights of a classifier that the ViT starts from, a full name or a path of a
    .keras file. The ViT is theirs, and broadcast must be as theirs, or cbs for a plain
    one."""


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


def build_model(network, data, classes, dtype):
    """The experiment's model; it gives logits.

    The only place that knows how `keras_cbvit` builds it.

    Returns:
        A functional `keras.Model` from images of values 0–255 and of shape `(batch,
        height, width, 3)`, the sides multiples of the patch size, to float32 logits of
        shape `(batch, height, width, classes)`.
    """
    import keras_cbvit

    own = {size: getattr(network, size) for size in SIZES}
    own = {size: value for size, value in own.items() if value is not None}
    options = {
        "patch_size": network.patch_size,
        "input_shape": (*data.image_size, 3),
        "broadcast": network.broadcast,
        "drop_path_rate": network.drop_path_rate,
        "dtype": dtype,
    }
    if network.weights is not None and network.patch_size == Network().patch_size:
        del options["patch_size"]
    if network.model == "UperNet":
        needed = ("blocks", "channels")
        if network.weights is None:
            needed += ("hidden_dim", "depth", "num_heads")
        if missing := [size for size in needed if size not in own]:
            raise ValueError(f"--model UperNet needs {' and '.join(missing)}.")
        blocks, channels = own.pop("blocks"), own.pop("channels")
        vit = keras_cbvit.ViTCB(
            weights=network.weights,
            **options,
            **own,
            include_top=False,
            pooling=None,
        )
        pyramid = keras_cbvit.feature_pyramid(vit, blocks)
        return keras_cbvit.UperNet(pyramid, classes, channels, dtype=dtype)
    if own:
        size, value = next(iter(own.items()))
        raise ValueError(
            f"{size}={value} goes with --model UperNet; {network.model} has a size of "
            "its own."
        )
    builder = getattr(keras_cbvit, network.model)
    return builder(classes, weights=network.weights, **options)


def with_auxiliary_head(model):
    """The model to train: it shares its layers with `model`.

    Returns:
        A functional `keras.Model` from images to a dict of logits of the shape of
        those of `model`: `"predictions"`, which are its, and `"auxiliary"`.
    """
    import keras_cbvit

    return keras_cbvit.with_auxiliary_head(model)
