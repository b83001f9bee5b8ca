"""Models by name: the only place that knows both the models and their weights."""

import dataclasses
import fnmatch
import functools
import inspect
import textwrap
from typing import Any

import keras

from keras_cbvit.arguments import flag
from keras_cbvit.models.registry import (
    FAMILIES,
    SIZES,
    UPERNET,
    UPERNET_CHANNELS,
    architecture_of_spec,
    known_models,
    model_fields,
)
from keras_cbvit.models.segmentation import BLOCKS, FeaturePyramid, SegmentationModel
from keras_cbvit.models.spec import ViTSpec
from keras_cbvit.models.vision_transformer import VisionTransformer
from keras_cbvit.pretrained import loading
from keras_cbvit.pretrained.formats import keras_files
from keras_cbvit.pretrained.sources import list_weights, locate

_OWN = """\
include_top: whether the model ends in a classification head.
weights: `None` for random weights, a tag such as `"imagenet"` (for the
    sizes), a full name such as `"vitcb_s.imagenet"`, or the path of a
    `.keras` or `.weights.h5` file of such a model. `list_weights()` lists
    the names. Position embeddings are resampled to `input_shape`. A
    `.weights.h5` file takes the arguments that its model was built with.
input_tensor: the tensor of images that the model is built on, for instance a
    `keras.Input`.
input_shape: `(height, width, channels)` of the images. Height and width
    are multiples of `patch_size` and need not be equal; `None` for any.
pooling: `"token"` for the class token, `"avg"` for the mean of the patches'
    tokens; if not given, all tokens without a head, else that of the weights,
    or `"token"`.
classes: number of classes. Given with `weights` of another number of
    classes, the head is reinitialized and everything else is loaded. The head
    of `weights` brings its `class_names` along; a new one has none.
classifier_activation: activation of the head, `None` for logits.
name: name of the model."""
_LAST = """\
dtype: dtype or dtype policy of the layers, for instance
    `"mixed_bfloat16"`. Pixels are normalized and predictions given in
    at least float32.
allow_other_function: whether the weights of a file may be loaded into a model
    that computes something else with them, such as CB in the place of none.
    A Λ that starts at 0 changes nothing and is always allowed."""
_REST = """\

What is not given is taken from `weights`, where they say it, else from `ViTSpec`.

Args:
{arguments}

Returns:
    A `VisionTransformer`, a functional `keras.Model`. It takes images of shape
    `(batch, height, width, channels)` and gives `(batch, classes)` with a head,
    else `(batch, hidden_dim)`, or `(batch, tokens, hidden_dim)` without pooling.

Raises:
    ValueError: on an argument that cannot work, named with what would; on
        unknown weights, and on weights of another architecture or function.
    FileNotFoundError: on the path of a file that does not exist."""
_SIZE_FIELDS = tuple(SIZES["s"])


def _documented(builder):
    """Gives a builder's `**options` the names and the words of `ViTSpec`'s fields."""
    signature = inspect.signature(builder)
    parameters = [
        p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD
    ]
    names = [p.name for p in parameters]
    fields = [f.name for f in dataclasses.fields(ViTSpec) if f.name not in names]
    if builder.__name__ != "ViTCB":
        fields = [name for name in fields if name not in _SIZE_FIELDS]
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter(n, keyword, default=None) for n in fields]
    signature = signature.replace(parameters=parameters[:8] + options + parameters[8:])
    words = _field_docs()
    texts = [_OWN, *(f"{name}: {words[name]}" for name in fields), _LAST]
    arguments = textwrap.indent("\n".join(texts), "    ")

    @functools.wraps(builder)
    def build(*args, **kwargs):
        signature.bind(*args, **kwargs)  # a TypeError on unknown names
        return builder(*args, **kwargs)

    build.__signature__ = signature
    build.__doc__ = (
        inspect.cleandoc(builder.__doc__) + "\n" + _REST.format(arguments=arguments)
    )
    return build


@functools.cache
def _field_docs():
    """What the docstring of `ViTSpec` says of each field."""
    text = inspect.cleandoc(ViTSpec.__doc__)
    lines = text.partition("Args:\n")[2].partition("\n\nRaises:")[0].splitlines()
    found, name = {}, None
    for line in textwrap.dedent("\n".join(lines)).splitlines():
        if not line.startswith(" "):
            name, _, line = line.partition(": ")
            found[name] = line
        else:
            found[name] += f"\n{line}"
    return found


@_documented
def ViTCB(
    include_top: bool = True,
    weights: Any = None,
    input_tensor: Any = None,
    input_shape: Any = None,
    pooling: Any = None,
    classes: Any = None,
    classifier_activation: Any = "softmax",
    name: str | None = None,
    *,
    dtype: Any = None,
    allow_other_function: bool = False,
    **options: Any,
) -> VisionTransformer:
    """Builds a Vision Transformer with Context Broadcasting of any size.

    `ViTCB_Ti`, `ViTCB_S` and `ViTCB_B` are the sizes of the paper.
    """
    return _build(**locals())


@_documented
def ViTCB_Ti(
    include_top: bool = True,
    weights: Any = None,
    input_tensor: Any = None,
    input_shape: Any = None,
    pooling: Any = None,
    classes: Any = None,
    classifier_activation: Any = "softmax",
    name: str | None = None,
    *,
    dtype: Any = None,
    allow_other_function: bool = False,
    **options: Any,
) -> VisionTransformer:
    """Builds ViT-Ti with Context Broadcasting: 12 blocks, 192 channels, 3 heads."""
    return _build(**locals(), size="ti")


@_documented
def ViTCB_S(
    include_top: bool = True,
    weights: Any = None,
    input_tensor: Any = None,
    input_shape: Any = None,
    pooling: Any = None,
    classes: Any = None,
    classifier_activation: Any = "softmax",
    name: str | None = None,
    *,
    dtype: Any = None,
    allow_other_function: bool = False,
    **options: Any,
) -> VisionTransformer:
    """Builds ViT-S with Context Broadcasting: 12 blocks, 384 channels, 6 heads."""
    return _build(**locals(), size="s")


@_documented
def ViTCB_B(
    include_top: bool = True,
    weights: Any = None,
    input_tensor: Any = None,
    input_shape: Any = None,
    pooling: Any = None,
    classes: Any = None,
    classifier_activation: Any = "softmax",
    name: str | None = None,
    *,
    dtype: Any = None,
    allow_other_function: bool = False,
    **options: Any,
) -> VisionTransformer:
    """Builds ViT-B with Context Broadcasting: 12 blocks, 768 channels, 12 heads."""
    return _build(**locals(), size="b")


def _build(
    include_top,
    weights,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=None,
    classifier_activation="softmax",
    name=None,
    dtype=None,
    allow_other_function=False,
    options=None,
    size=None,
    of_any_size=False,
):
    """What all builders do; `of_any_size` has a model of `input_shape` take others."""
    include_top = flag("include_top", include_top)
    allow_other_function = flag("allow_other_function", allow_other_function)
    if not include_top and classes is not None:
        raise ValueError(
            f"classes={classes!r:.80} has no meaning with include_top=False: such a "
            "model has no head. Leave out one of the two."
        )
    given = {**(options or {}), "input_shape": input_shape, "classes": classes}
    given = {field: value for field, value in given.items() if value is not None}
    given |= SIZES[size] if size else {}
    given["classifier_activation"] = classifier_activation
    if input_tensor is not None:
        given["input_shape"] = _shape_of(input_tensor, given.get("input_shape"))
    if pooling is not None or not include_top:
        given["pooling"] = pooling
    if not include_top:
        given["classes"] = None
    if weights is None:
        spec, content, record = ViTSpec(**given), None, None
    else:
        path, record = locate(weights, _name_for_tags(given))
        content = keras_files.read(path)
        spec = _merge(content, given, classes)
    if of_any_size:
        shape = (None, None, spec.input_shape[2])
        spec = spec.replace(input_shape=shape, position_grid=spec.grid)
    if name is None:
        name = architecture_of_spec(spec) or FAMILIES[spec.broadcast]
    images = input_tensor if _is_input(input_tensor) else None
    model = VisionTransformer(spec, dtype=dtype, name=name, images=images)
    if content is not None:
        found = content.spec
        new_head = found is not None and found.classes != spec.classes
        loading.assign(model, content, new_head, allow_other_function)
        if record is not None and spec.classes is not None and not new_head:
            loading.name_classes(model, record)
    if input_tensor is not None and images is None:
        inputs = keras.utils.get_source_inputs(input_tensor)
        return keras.Model(inputs, model(input_tensor), name=name)
    return model


def _name_for_tags(given):
    """The registered name of what is asked for, which completes a tag."""
    of_images = ("input_shape", "include_preprocessing", "classes", "pooling")
    fields = {field: given[field] for field in given if field not in of_images}
    return architecture_of_spec(ViTSpec(**fields, input_shape=(None, None, 3)))


def _merge(content, given, classes):
    """The spec of a model that gets the content of a file."""
    found = content.spec
    if found is not None and "classes" not in given and found.classes is None:
        raise ValueError(
            f"{content.source} has no classification head: give classes=... for a new "
            "one, or include_top=False."
        )
    if found is not None and found.pooling is None and classes is not None:
        given = {"pooling": "token", **given}
    return loading.merge(content, given)


def _is_input(tensor):
    if tensor is None:
        return False
    sources = keras.utils.get_source_inputs(tensor)
    return len(sources) == 1 and sources[0] is tensor


def _shape_of(tensor, input_shape):
    if not keras.utils.is_keras_tensor(tensor):
        raise ValueError(
            "input_tensor must be a symbolic tensor, as keras.Input gives."
        )
    shape = tuple(tensor.shape[1:])
    if input_shape is not None and tuple(input_shape) != shape:
        raise ValueError(
            f"input_shape={input_shape} is not that of input_tensor, {shape}; leave "
            "out one of the two."
        )
    return shape


def UperNet_ViTCB_Ti(
    classes: int,
    weights: Any = None,
    *,
    input_shape: Any = (512, 512, 3),
    blocks: Any = BLOCKS,
    classifier_activation: Any = None,
    name: str | None = None,
    dtype: Any = None,
    **options: Any,
) -> SegmentationModel:
    """Builds UperNet with 192 channels on ViTCB_Ti; see `UperNet_ViTCB_S`."""
    return _upernet(**locals(), channels=UPERNET_CHANNELS["ti"], size="ti")


def UperNet_ViTCB_S(
    classes: int,
    weights: Any = None,
    *,
    input_shape: Any = (512, 512, 3),
    blocks: Any = BLOCKS,
    classifier_activation: Any = None,
    name: str | None = None,
    dtype: Any = None,
    **options: Any,
) -> SegmentationModel:
    """Builds UperNet with 384 channels on the blocks 3, 5, 7 and 11 of ViTCB_S.

    Args:
        classes: number of classes.
        weights: as of `ViTCB_S`: `None`, a name, or the path of a classification
            model's file. Its blocks are loaded; its norm and head are left out.
            UperNet's head is random.
        input_shape: `(height, width, channels)` of the images to train on, which the
            position embedding is made for; the model takes other sizes as well,
            for which it is resampled. Height and width are multiples of the patch size.
        blocks: indices of four blocks, counted from 0, in ascending order.
        classifier_activation: `"softmax"` for probabilities, `None` for logits.
        name: name of the model.
        dtype: dtype or dtype policy of the layers.
        **options: other arguments of `ViTCB_S`, such as `broadcast` or
            `drop_path_rate`.

    Returns:
        A `SegmentationModel`.
    """
    return _upernet(**locals(), channels=UPERNET_CHANNELS["s"], size="s")


def UperNet_ViTCB_B(
    classes: int,
    weights: Any = None,
    *,
    input_shape: Any = (512, 512, 3),
    blocks: Any = BLOCKS,
    classifier_activation: Any = None,
    name: str | None = None,
    dtype: Any = None,
    **options: Any,
) -> SegmentationModel:
    """Builds UperNet with 512 channels on ViTCB_B; see `UperNet_ViTCB_S`."""
    return _upernet(**locals(), channels=UPERNET_CHANNELS["b"], size="b")


def UperNet_ViTCB(
    classes: int,
    channels: int,
    weights: Any = None,
    *,
    input_shape: Any = (512, 512, 3),
    blocks: Any = BLOCKS,
    classifier_activation: Any = None,
    name: str | None = None,
    dtype: Any = None,
    **options: Any,
) -> SegmentationModel:
    """Builds UperNet with any number of channels on a ViTCB of any size.

    For the arguments see `UperNet_ViTCB_S`; `channels` are those of the head.
    """
    return _upernet(**locals())


def _upernet(
    classes,
    channels,
    weights,
    input_shape,
    blocks,
    classifier_activation,
    name,
    dtype,
    options,
    size=None,
):
    for own in ("include_top", "pooling"):
        if own in options:
            raise TypeError(
                f"{own} is not an argument of UperNets, whose Vision Transformer has no "
                "head."
            )
    vit = _build(
        include_top=False,
        weights=weights,
        input_shape=input_shape,
        dtype=dtype,
        options=options,
        size=size,
        of_any_size=True,
    )
    return SegmentationModel(
        FeaturePyramid(vit, blocks, dtype=dtype),
        classes,
        channels,
        classifier_activation,
        dtype=dtype,
        name=f"{UPERNET}{vit.name}" if name is None else name,
    )


def create_model(name: str, weights: Any = None, **overrides: Any):
    """Builds a model by its name.

    Args:
        name: one of `list_models()`.
        weights: as of `ViTCB`.
        **overrides: other arguments of `ViTCB`, or, for a name that begins with
            `upernet_`, of `UperNet_ViTCB`.

    Raises:
        ValueError: on an unknown name, with the known ones, and as `ViTCB`.
    """
    if name not in known_models():
        raise ValueError(
            f"name={name!r:.80} is unknown; use one of {', '.join(known_models())}."
        )
    fields = model_fields(name.removeprefix(UPERNET))
    if not name.startswith(UPERNET):
        return ViTCB(weights=weights, **{**fields, **overrides})
    overrides.setdefault("channels", UPERNET_CHANNELS[name.rpartition("_")[2]])
    return UperNet_ViTCB(weights=weights, **{**fields, **overrides})


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Names of the models that `create_model` builds, sorted.

    Args:
        pattern: with `*` and `?`, for instance `"vitcb_*"`.
        pretrained: whether to list published weights, whose names begin with that of
            their architecture, in the place of models.
    """
    if not pretrained:
        return known_models(pattern)
    return [
        name
        for name in list_weights()
        if fnmatch.fnmatch(name.partition(".")[0], pattern)
    ]
