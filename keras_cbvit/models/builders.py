"""What a user calls: a model by its size, with defaults and weights."""

import inspect

from keras_cbvit.layers.arguments import flag
from keras_cbvit.models.arguments import plain_arguments
from keras_cbvit.models.vision_transformer import VisionTransformer
from keras_cbvit.pretrained.architectures import FAMILIES, SIZES, architecture_name
from keras_cbvit.pretrained.contents import saved_config
from keras_cbvit.pretrained.files import located
from keras_cbvit.pretrained.loading import load_pretrained, refuse_other_architecture


class _Default:
    """A default that can be told from the same value given by the caller."""

    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return repr(self.value)


def ViTCB(
    input_shape=_Default((224, 224, 3)),
    patch_size=_Default(16),
    classes=_Default(1000),
    include_top=_Default(True),
    weights=None,
    pooling=_Default("token"),
    classifier_activation=_Default("softmax"),
    broadcast=_Default("cb"),
    broadcast_place=_Default("mlp_end"),
    broadcast_blocks=_Default("all"),
    context=_Default("mean"),
    drop_path_rate=_Default(0.0),
    remat=_Default(False),
    include_preprocessing=_Default(True),
    hidden_dim=_Default(384),
    depth=_Default(12),
    num_heads=_Default(6),
    mlp_ratio=_Default(4),
    dtype=None,
    name=None,
    allow_other_function=False,
):
    """Builds a Vision Transformer with Context Broadcasting of any size.

    The network is DeiT's (section 4 of the paper "Scratching Visual
    Transformer's Back with Uniform Attention" trains with it) with CB at the end
    of every MLP (section 3.2). `ViTCB_Ti`, `ViTCB_S` and `ViTCB_B` are its three
    sizes in the paper.

    What is not given is taken from the file of `weights`, where there is one,
    else from the defaults of the signature.

    Args:
        input_shape: `(height, width, channels)` of the images. Height and width
            are multiples of `patch_size`; they need not be equal.
        patch_size: side of a patch in pixels.
        classes: number of classes. Given with `weights` of another number of
            classes, the head starts anew and everything else is loaded. The head of
            `weights` brings its `class_names` along; a new one has none.
        include_top: whether the model ends in a classification head.
        weights: `None` for random weights, a tag such as `"imagenet"` (for the
            sizes), a full name such as `"vitcb_s.imagenet"`, or the path of a
            `.keras` or `.weights.h5` file of such a model. `list_weights()` lists
            the names. Position embeddings are resampled to `input_shape`.
        pooling: `"token"` for the class token, `"avg"` for the mean of the other
            tokens, or, without a head, `None` for all tokens.
        classifier_activation: activation of the head, `None` for logits.
        broadcast: `"cb"`, `"cbs"` (CB_S, with a learnable Λ that starts at 0), or
            `None` for the plain ViT.
        broadcast_place: `"mlp_end"`, `"mlp_front"`, `"mlp_mid"`, `"msa_end"`, or
            `"both"`, the ends of the MSA and the MLP (Tables 4 and 5).
        broadcast_blocks: `"all"`, `"upper"`, the last half (Table 9), or a
            sequence of block indices counted from 0.
        context: `"mean"`, `"max"` or `"token"` (Table 10).
        drop_path_rate: stochastic depth of the last block; it grows linearly from
            0 in the first.
        remat: whether training computes the inside of the blocks again in the backward
            pass rather than keep it (activation recomputation): less memory for
            more time, see docs/speed.md.
        include_preprocessing: whether the model takes images of values 0–255 and
            normalises them by ImageNet's mean and standard deviation itself.
        hidden_dim: channels of the tokens.
        depth: number of blocks.
        num_heads: attention heads; must divide `hidden_dim`.
        mlp_ratio: channels of the MLP's hidden tokens in multiples of `hidden_dim`.
        dtype: dtype or dtype policy of the layers, for instance
            `"mixed_bfloat16"`. Pixels are normalised and predictions given in
            at least float32.
        name: name of the model.
        allow_other_function: whether the weights of a file may be loaded into a model
            that computes something else with them: another `broadcast`, at other
            places, in other blocks or of another `context`, another `pooling` before
            the file's head, or images that are normalised where the file's were not.
            A Λ that starts at 0 changes nothing and is always allowed.

    Returns:
        A functional `keras.Model`. It takes images of shape `(batch, height,
        width, channels)` and gives `(batch, classes)` with a head, else
        `(batch, hidden_dim)`, or `(batch, 1 + tokens, hidden_dim)`
        with `pooling=None`.

    Raises:
        ValueError: on an argument that cannot work, named with what would; on
            unknown weights, and on weights of another architecture or function.
        FileNotFoundError: on the path of a file that does not exist.
    """
    arguments = dict(locals())
    for own in ("weights", "dtype", "name", "allow_other_function"):
        del arguments[own]
    given, defaults = {}, {}
    for key, value in arguments.items():
        if isinstance(value, _Default):
            defaults[key] = value.value
        else:
            given[key] = value
    given = plain_arguments(given)
    allow_other_function = flag("allow_other_function", allow_other_function)
    if given.get("include_top") is False and given.get("classes") is not None:
        raise ValueError(
            f"classes={given['classes']} has no meaning with include_top=False: such "
            "a model has no head. Leave out one of the two."
        )
    config = {**defaults, **given}
    architecture = architecture_name(config)
    if weights is not None:
        path, record = located(weights, architecture)
        saved = saved_config(path)
        refuse_other_architecture(path, saved, given)
        config = {**defaults, **saved, **given}
        config.pop("class_names", None)  # which come along with the head
        architecture = architecture_name(config)
    if name is None:
        name = architecture or FAMILIES[config["broadcast"]]
    model = VisionTransformer(**config, dtype=dtype, name=name)
    if weights is not None:
        load_pretrained(model, path, "classes" in given, record, allow_other_function)
    return model


def _of_size(size, summary):
    """`ViTCB` with the numbers of a size, under a name of its own."""
    numbers = SIZES[size]
    signature = inspect.signature(ViTCB)
    free = [p for p in signature.parameters.values() if p.name not in numbers]
    signature = signature.replace(parameters=free)

    def build(*args, **kwargs):
        return ViTCB(**signature.bind(*args, **kwargs).arguments, **numbers)

    build.__signature__ = signature
    build.__name__ = build.__qualname__ = f"ViTCB_{size.capitalize()}"
    build.__doc__ = (
        f"{summary}\n\nTakes the other arguments of `ViTCB`, which says more."
    )
    return build


ViTCB_Ti = _of_size(
    "ti",
    "Builds ViT-Ti with Context Broadcasting: 12 blocks of 192 channels and 3 heads.",
)
ViTCB_S = _of_size(
    "s",
    "Builds ViT-S with Context Broadcasting: 12 blocks of 384 channels and 6 heads.",
)
ViTCB_B = _of_size(
    "b",
    "Builds ViT-B with Context Broadcasting: 12 blocks of 768 channels and 12 heads.",
)
