"""Builds models by name and loads their weights."""

import fnmatch
import warnings
from typing import Any

import keras

from keras_cbvit.arguments import flag, refuse, tensor_shape
from keras_cbvit.documentation import document_options
from keras_cbvit.models.registry import (
    FAMILIES,
    SIZES,
    UPERNET,
    UPERNET_CHANNELS,
    architecture_of_spec,
    known_models,
    model_fields,
    names_for_tags,
)
from keras_cbvit.models.segmentation import BLOCKS, FeaturePyramid, SegmentationModel
from keras_cbvit.models.spec import ViTSpec
from keras_cbvit.models.vision_transformer import VisionTransformer
from keras_cbvit.pretrained import formats, loading
from keras_cbvit.pretrained.sources import list_weights

_HEAD_FIELDS = {"classes", "pooling", "classifier_activation"}


@document_options
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
    fold_layer_scale: bool = False,
    allow_other_function: bool = False,
    **options: Any,
) -> VisionTransformer:
    """Builds a Vision Transformer of any size with Context Broadcasting.

    `ViTCB_Ti`, `ViTCB_S` and `ViTCB_B` build the paper's sizes.
    """
    return _build(**locals())


@document_options
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
    fold_layer_scale: bool = False,
    allow_other_function: bool = False,
    **options: Any,
) -> VisionTransformer:
    """Builds ViT-Ti with Context Broadcasting: 12 blocks, 192 channels, 3 heads."""
    return _build(**locals(), size="ti")


@document_options
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
    fold_layer_scale: bool = False,
    allow_other_function: bool = False,
    **options: Any,
) -> VisionTransformer:
    """Builds ViT-S with Context Broadcasting: 12 blocks, 384 channels, 6 heads."""
    return _build(**locals(), size="s")


@document_options
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
    fold_layer_scale: bool = False,
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
    fold_layer_scale=False,
    allow_other_function=False,
    options=None,
    size=None,
    any_size=False,
):
    """Builds the model of any builder; `any_size` lets it take other image sizes."""
    include_top = flag("include_top", include_top)
    fold_layer_scale = flag("fold_layer_scale", fold_layer_scale)
    allow_other_function = flag("allow_other_function", allow_other_function)
    if not include_top and classes is not None:
        refuse(
            "classes",
            classes,
            "has no effect with include_top=False, which leaves out the head; remove "
            "one of the two.",
        )
    options = dict(options or {})
    activation_is_given = options.pop("activation_is_given", False)
    given = {**options, "input_shape": input_shape, "classes": classes}
    given = {field: value for field, value in given.items() if value is not None}
    given |= SIZES[size] if size else {}
    if activation_is_given:
        given["classifier_activation"] = classifier_activation
    if input_tensor is not None:
        given["input_shape"] = tensor_shape(input_tensor, given.get("input_shape"))
    if pooling is not None or not include_top:
        given["pooling"] = pooling
    if not include_top:
        given["classes"] = None
    if weights is None:
        if fold_layer_scale:
            refuse("fold_layer_scale", True, "requires weights.")
        spec, content, record = ViTSpec(**given), None, None
    else:
        source, record = loading.locate_source(weights, *names_for_tags(given))
        content = formats.read(source, given)
        if fold_layer_scale:
            content = loading.fold_layer_scale(content)
        if "broadcast" not in given:
            given |= _default_broadcast(content, source, record, weights)
        spec = _merge(content, given, classes)
    if any_size:
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
        inputs = inputs[0] if len(inputs) == 1 else inputs
        return keras.Model(inputs, model(input_tensor), name=name)
    return model


def _default_broadcast(content, source, record, weights):
    """Returns CB_S for plain ViT weights that do not name their model.

    A Keras file and a full weight name identify a model, which stays as it is.
    """
    names_model = formats.is_own(source) if record is None else record.name == weights
    if names_model or content.spec.contexts():
        return {}
    if record is not None:
        warnings.warn(
            f"No CB weights of this name exist yet; loading {record.name}, a plain "
            "ViT, with broadcast='cbs'. The model predicts like the plain ViT until "
            "fine-tuning changes Λ.",
            stacklevel=5,
        )
    return {"broadcast": "cbs"}


def _merge(content, given, classes):
    """Returns the spec of a model that loads the content of a file."""
    found = content.spec
    if found is not None and "classes" not in given and found.classes is None:
        raise ValueError(
            f"{content.source} has no classification head; pass classes=... for a new "
            "one, or include_top=False."
        )
    if found is not None and found.pooling is None and classes is not None:
        given = {"pooling": "token" if found.class_token else "avg", **given}
    if found is not None and found.classes is None:
        given = {"classifier_activation": "softmax", **given}
    return loading.merge(content, given)


def _is_input(tensor):
    if tensor is None:
        return False
    sources = keras.utils.get_source_inputs(tensor)
    return len(sources) == 1 and sources[0] is tensor


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
        weights: weights of the Vision Transformer, as for `ViTCB_S`: `None`, a name,
            a handle, a path or a live model. Only the embeddings and blocks are
            loaded; UperNet's head is random.
        input_shape: `(height, width, channels)` of the training images, which sets
            the size of the position embedding. The model takes other sizes as well
            and resamples it. Height and width must be multiples of the patch size.
        blocks: ascending indices of four blocks, counted from 0.
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

    `channels` is the width of the head; see `UperNet_ViTCB_S` for other arguments.
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
    for own in (
        "include_top",
        "pooling",
        "input_tensor",
        *(SIZES[size] if size else ()),
    ):
        if own in options:
            raise TypeError(
                f"{own} is not an argument of UperNet_ViTCB"
                + (f"_{size.capitalize()}." if size else ".")
            )
    vit = _build(
        include_top=False,
        weights=weights,
        input_shape=input_shape,
        dtype=dtype,
        fold_layer_scale=options.pop("fold_layer_scale", False),
        allow_other_function=options.pop("allow_other_function", False),
        options=options,
        size=size,
        any_size=True,
    )
    return SegmentationModel(
        FeaturePyramid(vit, blocks, dtype=dtype),
        classes,
        channels,
        classifier_activation,
        dtype=dtype,
        name=f"{UPERNET}{vit.name}" if name is None else name,
    )


def create_model(name: str, weights: Any = None, **overrides: Any) -> keras.Model:
    """Builds a model by name.

    Args:
        name: one of `list_models()`.
        weights: as for `ViTCB`.
        **overrides: other arguments of `ViTCB`, or of `UperNet_ViTCB` if the name
            starts with `upernet_`.

    Raises:
        ValueError: if the name is unknown, and as `ViTCB`.
        TypeError: if `classes` is missing for a UperNet, and as `ViTCB`.
    """
    if not isinstance(name, str) or name not in known_models():
        refuse("name", name, f"is unknown; use one of {', '.join(known_models())}.")
    segments = name.startswith(UPERNET)
    fields = model_fields(name.removeprefix(UPERNET))
    if segments:
        fields["channels"] = UPERNET_CHANNELS[name.rpartition("_")[2]]
    if segments or not flag("include_top", overrides.get("include_top", True)):
        fields = {key: fields[key] for key in fields.keys() - _HEAD_FIELDS}
    fields |= {
        key: value
        for key, value in overrides.items()
        if value is not None or key == "classifier_activation"
    }
    if segments and "classes" not in fields:
        raise TypeError(f"create_model({name!r}) requires the argument classes.")
    return (UperNet_ViTCB if segments else ViTCB)(weights=weights, **fields)


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Returns the sorted names of the models that `create_model` builds.

    Args:
        pattern: glob with `*` and `?`, such as `"vitcb_*"`.
        pretrained: whether to list published weights instead of models. Their names
            start with the name of the model.
    """
    if not pretrained:
        return known_models(pattern)
    return [
        name
        for name in list_weights()
        if fnmatch.fnmatch(name.partition(".")[0], pattern)
    ]
