"""The complete configuration of a Vision Transformer."""

import dataclasses
import json
from typing import Annotated, Any, Literal

from keras_cbvit.arguments import (
    LARGEST,
    check_fields,
    drop_rate,
    items,
    keras_activation,
    norm_epsilon,
    number,
    number_between,
    refuse,
    whole_number,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# The places in an encoder block that each `broadcast_place` stands for.
BROADCAST_PLACES = {
    "mlp_end": ("mlp_end",),
    "mlp_front": ("mlp_front",),
    "mlp_mid": ("mlp_mid",),
    "msa_end": ("msa_end",),
    "both": ("msa_end", "mlp_end"),
}
# DeepNet (2022) has 1000 layers.
DEEPEST = 1000
# Image side that sets the position embedding of a model for any image size.
DEFAULT_SIDE = 224
SE_RATIO = 16
# Fields that only affect training, not predictions.
TRAINING_FIELDS = ("drop_path_rate", "remat")


def _image_shape(argument, value):
    found = items(value, most=3)
    if found is None or len(found) != 3 or found[2] is None:
        refuse(
            argument,
            value,
            "must be (height, width, channels), for instance (224, 224, 3) or (None, "
            "None, 3).",
        )
    return tuple(None if s is None else whole_number(argument, s) for s in found)


def _grid(argument, value):
    found = items(value, most=2)
    if found is None or len(found) != 2:
        refuse(argument, value, "must be (rows, columns), for instance (14, 14).")
    return tuple(whole_number(argument, side) for side in found)


def _blocks(argument, value):
    if isinstance(value, str) and value in ("all", "upper"):
        return str(value)
    found = items(value, most=DEEPEST)
    try:
        indices = [whole_number("index", index, least=-LARGEST) for index in found]
    except (TypeError, ValueError):
        refuse(
            argument,
            value,
            "is unknown; use 'all', 'upper' or a sequence of block indices.",
        )
    if not indices:
        refuse(argument, value, "is empty; set broadcast='none' for the plain ViT.")
    if len({*indices}) < len(indices):
        refuse(argument, value, "contains a block twice.")
    return tuple(indices)


def _colors(lowest):
    """Returns a check that each channel's value is between `lowest` and 1."""
    one = number_between(lowest, 1)

    def check(argument, value):
        found = items(value, most=LARGEST)
        if not found:
            refuse(argument, value, "must be a sequence with one number per channel.")
        return tuple(one(argument, each) for each in found)

    return check


def _up_to(most, least=1):
    return lambda argument, value: whole_number(argument, value, least, most)


WholeNumber = Annotated[int, whole_number]
Colors = tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTSpec:
    """Configuration of a Vision Transformer, with or without Context Broadcasting.

    The defaults are ViT-S of the paper "Scratching Visual Transformer's Back with
    Uniform Attention", which is DeiT's network (section 4) with CB at the end of every
    MLP (section 3.2). A spec is validated when created and converts to JSON.

    Args:
        input_shape: `(height, width, channels)` of the images. Height and width must be
            multiples of `patch_size`, but need not be equal; `None` allows any size.
        patch_size: side of a patch in pixels.
        hidden_dim: channels of the tokens.
        depth: number of blocks, at most 1000.
        num_heads: attention heads; must divide `hidden_dim`.
        mlp_ratio: ratio of the MLP's hidden channels to `hidden_dim`.
        class_token: whether to prepend a learnable class token.
        distillation_token: whether to add a distillation token, as in DeiT.
        num_register_tokens: learnable tokens before the patch tokens, as in "Vision
            Transformers Need Registers" (ICLR 2024).
        prefix_position_embedding: whether the class, distillation and register tokens
            get position embeddings as well as the patch tokens.
        position_grid: `(rows, columns)` of the learned position embedding, for a model
            of images of any size, which resamples it. Defaults to the patches of
            224x224 pixels.
        pre_norm: whether to apply a layer norm before the first block, as in CLIP.
        qkv_bias: whether queries, keys and values have a bias.
        qk_norm: whether to apply a layer norm to the queries and to the keys of every
            head, as in ViT-22B.
        activation: activation of the MLPs: `"gelu"`, `"gelu_tanh"`, `"quick_gelu"`
            (CLIP), or `"swiglu"` (DINOv2-g), whose first layer has twice the hidden
            channels.
        layer_scale: initial value of LayerScale's factors, `None` for no LayerScale.
        epsilon: small number that the layer norms add to the variance.
        broadcast: `"cb"`, `"cbs"` (CB_S, with a learnable Λ that starts at 0), or
            `"none"` for the plain ViT.
        broadcast_place: `"mlp_end"`, `"mlp_front"`, `"mlp_mid"`, `"msa_end"`, or
            `"both"`, the ends of the MSA and the MLP (Tables 4 and 5).
        broadcast_blocks: `"all"`, `"upper"` for the last half (the project's reading of
            Table 9), or block indices counted from 0.
        context: `"mean"`, `"max"` or `"token"` (Table 10).
        uniform_head: head with uniform attention in each block (Table 1): `"replaced"`
            replaces a head with it; `"compensated"` also widens all heads to keep the
            number of parameters; `"attached"` adds it; `"none"` leaves it out.
        squeeze_excitation: whether every MLP ends in squeeze-and-excitation (Tables 2
            and 3), after CB if both are used.
        extra_branch: `"msa"` or `"mlp"` to add one more of these branches after the
            last block (Figure 2), or `"none"`.
        drop_path_rate: stochastic depth rate of the last block, at least 0 and less
            than 1; it increases linearly from 0 in the first block.
        remat: whether training recomputes the activations inside the blocks in the
            backward pass, which takes less memory and more time.
        include_preprocessing: whether the model takes images of values 0-255 and
            normalizes them with `mean` and `std`.
        mean: mean of each channel for images of values 0-1. Defaults to ImageNet's.
        std: standard deviation of each channel, likewise.
        pooling: `"token"` for the class token, `"avg"` for the mean of the patch
            tokens, `"token_avg"` for their concatenation (DINOv2), `"distilled"` for
            the mean of the class and distillation heads (DeiT), or, without a head,
            `None` for all tokens.
        fc_norm: whether to apply the last layer norm after pooling instead of before;
            without pooling it applies to the tokens.
        classes: number of classes, `None` for a model without a head.
        classifier_activation: activation of the head, `None` for logits.

    Raises:
        ValueError: if an argument is invalid.
    """

    input_shape: Annotated[tuple[int | None, int | None, int], _image_shape] = (
        DEFAULT_SIDE,
        DEFAULT_SIDE,
        3,
    )
    patch_size: WholeNumber = 16
    hidden_dim: WholeNumber = 384
    depth: Annotated[int, _up_to(DEEPEST)] = 12
    num_heads: WholeNumber = 6
    mlp_ratio: Annotated[float, number] = 4
    class_token: bool = True
    distillation_token: bool = False
    num_register_tokens: Annotated[int, _up_to(DEEPEST, least=0)] = 0
    prefix_position_embedding: bool = True
    position_grid: Annotated[tuple[int, int], _grid] | None = None
    pre_norm: bool = False
    qkv_bias: bool = True
    qk_norm: bool = False
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"] = "gelu"
    layer_scale: Annotated[float, number_between(0, 100)] | None = None
    epsilon: Annotated[float, norm_epsilon] = 1e-6
    broadcast: Literal["none", "cb", "cbs"] = "cb"
    broadcast_place: Literal["mlp_end", "mlp_front", "mlp_mid", "msa_end", "both"] = (
        "mlp_end"
    )
    broadcast_blocks: Annotated[str | tuple[int, ...], _blocks] = "all"
    context: Literal["mean", "max", "token"] = "mean"
    uniform_head: Literal["none", "replaced", "compensated", "attached"] = "none"
    squeeze_excitation: bool = False
    extra_branch: Literal["none", "msa", "mlp"] = "none"
    drop_path_rate: Annotated[float, drop_rate] = 0.0
    remat: bool = False
    include_preprocessing: bool = True
    mean: Annotated[Colors, _colors(0)] = IMAGENET_MEAN
    std: Annotated[Colors, _colors(1e-3)] = IMAGENET_STD
    pooling: Literal["token", "avg", "token_avg", "distilled"] | None = "token"
    fc_norm: bool = False
    classes: WholeNumber | None = 1000
    classifier_activation: Annotated[str | None, keras_activation] = "softmax"

    def __post_init__(self):
        check_fields(self)
        self._check_sizes()
        self._check_images()
        self._check_blocks()
        self._check_tokens()
        if self.classes is not None and self.pooling is None:
            refuse(
                "pooling",
                None,
                "leaves no vector to classify; use 'token' or 'avg', or classes=None "
                "for a model without a head.",
            )

    def _check_sizes(self):
        hidden = self.hidden_dim * self.mlp_ratio
        if self.hidden_dim % self.num_heads:
            refuse(
                "num_heads",
                self.num_heads,
                f"must divide hidden_dim={self.hidden_dim}.",
            )
        if hidden < 1:
            refuse(
                "mlp_ratio",
                self.mlp_ratio,
                f"leaves no hidden channels with hidden_dim={self.hidden_dim}.",
            )
        if hidden > LARGEST:
            refuse(
                "mlp_ratio",
                self.mlp_ratio,
                f"gives more than {LARGEST} hidden channels with "
                f"hidden_dim={self.hidden_dim}.",
            )
        if self.num_heads == 1 and self.uniform_head in ("replaced", "compensated"):
            refuse(
                "num_heads",
                1,
                f"leaves no softmax head with uniform_head={self.uniform_head!r}; use "
                "2 or more.",
            )

    def _check_images(self):
        shape, patch = self.input_shape, self.patch_size
        *sides, channels = shape
        if any(side is not None and side % patch for side in sides):
            near = tuple(s and max(round(s / patch), 1) * patch for s in sides)
            refuse(
                "input_shape",
                shape,
                f"must have a height and width that are multiples of "
                f"patch_size={patch}, for instance {(*near, channels)}.",
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            if self.include_preprocessing and channels != len(values):
                refuse(
                    name,
                    values,
                    f"must have one number per channel of input_shape={shape}; or set "
                    "include_preprocessing=False.",
                )
        if self.position_grid is not None and None not in shape:
            refuse(
                "position_grid",
                self.position_grid,
                f"requires images of any size, but input_shape={shape}.",
            )

    def _check_blocks(self):
        blocks = self.broadcast_blocks
        if not isinstance(blocks, str) and any(
            not 0 <= index < self.depth for index in blocks
        ):
            refuse(
                "broadcast_blocks",
                blocks,
                f"is out of range; with depth={self.depth} the blocks are 0 to "
                f"{self.depth - 1}.",
            )

    def _check_tokens(self):
        if not self.class_token:
            without = "requires a class token, but class_token=False"
            if self.distillation_token:
                refuse("distillation_token", True, f"{without}.")
            if self.pooling not in ("avg", None):
                refuse("pooling", self.pooling, f"{without}; use 'avg'.")
            if self.broadcast != "none" and self.context == "token":
                refuse("context", self.context, f"{without}; use 'mean' or 'max'.")
        if self.pooling == "distilled" and not self.distillation_token:
            refuse("pooling", self.pooling, "requires distillation_token=True.")
        if self.fc_norm and self.pooling in ("token_avg", "distilled"):
            refuse("fc_norm", True, f"cannot be used with pooling={self.pooling!r}.")
        if self.uniform_head != "none" and (self.qk_norm or not self.qkv_bias):
            refuse(
                "uniform_head",
                self.uniform_head,
                "requires qkv_bias=True and qk_norm=False.",
            )

    def replace(self, **changes: Any) -> "ViTSpec":
        """Returns a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Returns all fields as JSON values, with lists for tuples."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @property
    def num_prefix_tokens(self) -> int:
        """Number of tokens before the patch tokens."""
        return self.class_token + self.distillation_token + self.num_register_tokens

    @property
    def mlp_dim(self) -> int:
        """Channels of the hidden tokens of an MLP, after its activation."""
        # A ratio such as 4096/1536 may be rounded down.
        return int(round(self.hidden_dim * self.mlp_ratio, 6))

    @property
    def grid(self) -> tuple[int, int]:
        """`(rows, columns)` of patches of the position embedding."""
        if self.position_grid is not None:
            return self.position_grid
        height, width = (
            DEFAULT_SIDE if side is None else side for side in self.input_shape[:2]
        )
        return max(height // self.patch_size, 1), max(width // self.patch_size, 1)

    @property
    def uniform_heads(self) -> tuple[int, int]:
        """Number of softmax heads beside a uniform head, and channels per head.

        "Comp." of Table 1 keeps the number of parameters; in the project's reading, as
        nearly as whole channels allow: 77, 70 and 67 instead of 64 channels per head
        for ViT-Ti, S and B.
        """
        dim, heads = self.hidden_dim, self.num_heads
        if self.uniform_head == "attached":
            return heads, dim // heads
        if self.uniform_head == "replaced":
            return heads - 1, dim // heads
        # Parameters per channel of a head, without the bias of the projection:
        # queries, keys and values with biases, the uniform head's values, projection.
        each = (3 * (heads - 1) + 1) * (dim + 1) + heads * dim
        return heads - 1, round((4 * dim**2 + 3 * dim) / each)

    def contexts(self) -> dict[tuple[int, str], tuple[bool, str]]:
        """Returns `{(block index, place): (has Λ, context)}` of all places with CB."""
        if self.broadcast == "none":
            return {}
        blocks = self.broadcast_blocks
        if isinstance(blocks, str):
            blocks = range({"all": 0, "upper": self.depth // 2}[blocks], self.depth)
        return {
            (index, place): (self.broadcast == "cbs", self.context)
            for index in blocks
            for place in BROADCAST_PLACES[self.broadcast_place]
        }
