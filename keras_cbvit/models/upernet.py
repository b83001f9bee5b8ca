"""Semantic segmentation: UperNet on a Vision Transformer or any other backbone."""

import inspect

import keras

from keras_cbvit.layers import (
    ClassTokenAndResampledPosition,
    FCNHead,
    FeatureScales,
    ResizeLike,
    TokenMap,
    UperHead,
    fast,
)
from keras_cbvit.layers.arguments import (
    activation,
    dtype_policy,
    items,
    name_of_model,
    refuse,
    shown,
    whole_number,
)
from keras_cbvit.models.builders import ViTCB_B, ViTCB_S, ViTCB_Ti
from keras_cbvit.models.segmentation_model import SegmentationModel
from keras_cbvit.pretrained.loading import refuse_other_model


def UperNet(
    backbone, classes, channels, classifier_activation=None, dtype=None, name="upernet"
):
    """Builds UperNet, which classifies every pixel, on a backbone's feature maps.

    The paper segments ADE20K with it (section 4). The head is mmsegmentation's
    `UPerHead`, see the layer `UperHead`; its logits are resized to the images in
    float32.

    Args:
        backbone: a functional `keras.Model` from images to four feature maps, the
            finest first, as `feature_pyramid` makes of a Vision Transformer. Its layers
            become those of the model.
        classes: number of classes.
        channels: channels of the head: the paper takes 192, 384 and 512 for ViT-Ti, S
            and B.
        classifier_activation: activation of the pixels' classes, `"softmax"` for
            probabilities, `None` for logits.
        dtype: dtype or dtype policy of the head, for instance `"mixed_bfloat16"`.
            Predictions are in at least float32.
        name: name of the model.

    Returns:
        A `SegmentationModel`, which is a functional `keras.Model`. It takes images of
        shape `(batch, height, width, channels)`, of any size that the backbone takes,
        and gives `(batch, height, width, classes)`. `with_auxiliary_head` makes the
        model to train of it; `predict_whole` and `predict_sliding` take images of other
        sizes. Its file is loaded by `keras_cbvit.load_model`, on any backend, and keeps
        its `class_names`, which may be set.

    Raises:
        ValueError: if the backbone does not give four feature maps of images, or
            on another argument that cannot work.

    Example:
        >>> resnet = keras.applications.ResNet50(include_top=False, weights=None)
        >>> stages = ("conv2_block3", "conv3_block4", "conv4_block6", "conv5_block3")
        >>> maps = [resnet.get_layer(f"{stage}_out").output for stage in stages]
        >>> model = UperNet(keras.Model(resnet.input, maps), classes=150, channels=512)
    """
    _check_backbone(backbone)
    classes = whole_number("classes", classes)
    channels = whole_number("channels", channels)
    function = activation("classifier_activation", classifier_activation)
    dtype = dtype_policy("dtype", dtype)
    name = name_of_model("name", name)
    images = backbone.inputs[0]
    head = UperHead(classes, channels, dtype=dtype, name="uper_head")
    predictions = _predict(head(backbone.outputs), images, function, "predictions")
    return SegmentationModel(images, predictions, name=name)


def with_auxiliary_head(model, channels=256):
    """The model to train: one that gives what an auxiliary head predicts as well.

    It shares its layers with `model`, which so is trained with it and is what to
    predict with and save afterwards; the auxiliary head is left behind. The head, an
    `FCNHead` on the third feature map, starts from random weights.

    Args:
        model: a model built by `UperNet`, or one read from its file.
        channels: channels of the auxiliary head.

    Returns:
        A functional `keras.Model` from images to a dict: `"predictions"`, as of
        `model`, and `"auxiliary"`, of the same shape and activation.

    Raises:
        ValueError: if `model` has no `uper_head`, or `channels` is no whole number of
            at least 1.

    Example:
        >>> training = with_auxiliary_head(model)
        >>> training.compile(
        ...     "adamw",
        ...     loss={"predictions": loss, "auxiliary": loss},
        ...     loss_weights={"predictions": 1.0, "auxiliary": 0.4},
        ... )
        >>> training.fit(images, {"predictions": labels, "auxiliary": labels})
        >>> model.save("upernet.keras")
    """
    layers = {layer.name: layer for layer in getattr(model, "layers", ())}
    if "uper_head" not in layers:
        raise ValueError(
            f"model={getattr(model, 'name', None) or shown(model)!r} has no layer "
            "uper_head; use a model that UperNet built."
        )
    uper_head = layers["uper_head"]
    third = uper_head.input[2]
    head = FCNHead(
        uper_head.classes, channels, dtype=uper_head.dtype_policy, name="auxiliary_head"
    )
    function = layers["predictions"].activation
    auxiliary = _predict(head(third), model.input, function, "auxiliary")
    outputs = {"predictions": model.output, "auxiliary": auxiliary}
    return keras.Model(model.input, outputs, name=f"{model.name}_training")


def _predict(logits, images, activation, name):
    """What a head says of every pixel of the images."""
    # 8 bits of mantissa are not for a mean of neighbours, nor for probabilities.
    wide = fast.wide_dtype(logits.dtype)
    x = ResizeLike(dtype=wide, name=f"{name}_logits")(logits, images)
    return keras.layers.Activation(activation, dtype=wide, name=name)(x)


def _check_backbone(backbone):
    outputs = getattr(backbone, "outputs", None)
    if outputs is None or len(backbone.inputs) != 1:
        raise ValueError(
            "backbone must be a functional keras.Model from images to four feature "
            f"maps, not {shown(backbone)}."
        )
    shapes = [output.shape for output in outputs]
    if len(shapes) != 4 or any(len(shape) != 4 for shape in shapes):
        raise ValueError(
            f"backbone={backbone.name!r} gives outputs of shapes {shown(shapes)}, but "
            "UperNet takes four feature maps of shape (batch, height, width, "
            "channels), the finest first; see feature_pyramid."
        )
    for axis in (1, 2):
        sides = [shape[axis] for shape in shapes if shape[axis] is not None]
        if sides != sorted(sides, reverse=True):
            raise ValueError(
                f"backbone={backbone.name!r} gives feature maps of shapes "
                f"{shown(shapes)}, but UperNet takes the finest first."
            )


def feature_pyramid(model, blocks=(3, 5, 7, 11)):
    """A backbone of a Vision Transformer: its tokens after four blocks as feature maps.

    The maps are brought to strides of 4, 8, 16 and 32 pixels (for patches of 16; see
    the layer `FeatureScales`), without a final norm, as XCiT does it for ADE20K.

    The backbone shares its layers with `model`, but for the position embedding, which
    is copied and resampled to the images at hand: it takes images of any height and
    width that are multiples of the patch size, two patches at least.

    Args:
        model: a `VisionTransformer` as `ViTCB` builds it. Its norm and head are left
            out; its `input_shape` is the size of images to train on.
        blocks: indices of four blocks, counted from 0, in ascending order.

    Returns:
        A functional `keras.Model` from images of shape `(batch, height, width,
        channels)` to a list of four maps, the finest first.

    Raises:
        ValueError: if `model` is of another kind or has no such blocks.
    """
    refuse_other_model(model)
    config = model.get_config()
    depth, patch_size = config["depth"], config["patch_size"]
    try:
        indices = [whole_number("blocks", index, 0) for index in items(blocks, most=4)]
    except (TypeError, ValueError):
        indices = []
    if len(indices) != 4 or sorted({*indices} & {*range(depth)}) != indices:
        refuse(
            "blocks",
            blocks,
            f"must be four ascending indices of the {depth} blocks, 0 to {depth - 1}.",
        )
    height, width, channels = config["input_shape"]
    images = keras.Input((None, None, channels), name="images")
    x = images
    if config["include_preprocessing"]:
        x = model.get_layer("normalization")(x)
    tokens = model.get_layer("patch_embedding")(x)
    own = model.get_layer("class_token_and_position")
    position = ClassTokenAndResampledPosition(
        patch_size,
        (height // patch_size, width // patch_size),
        dtype=own.dtype_policy,
        name=own.name,
    )
    tokens = position(tokens, images)
    position.set_weights(own.get_weights())
    maps = []
    for i in range(indices[-1] + 1):
        block = model.get_layer(f"block_{i}")
        tokens = block(tokens)
        if i in indices:
            to_map = TokenMap(patch_size, dtype=block.dtype_policy, name=f"map_{i}")
            maps.append(to_map(tokens, images))
    scales = FeatureScales(dtype=model.dtype_policy, name="feature_scales")
    return keras.Model(images, scales(maps), name=f"{model.name}_pyramid")


def _of_size(builder, channels):
    """`UperNet` on the feature maps of a size of `ViTCB`."""

    def build(
        classes,
        weights=None,
        input_shape=(512, 512, 3),
        classifier_activation=None,
        dtype=None,
        name=None,
        **vit_arguments,
    ):
        for own in ("include_top", "pooling"):
            if own in vit_arguments:
                raise TypeError(
                    f"{own} is not an argument of {build.__name__}, whose Vision "
                    "Transformer has no head."
                )
        vit = builder(
            input_shape=input_shape,
            weights=weights,
            include_top=False,
            pooling=None,
            dtype=dtype,
            **vit_arguments,
        )
        return UperNet(
            feature_pyramid(vit),
            classes,
            channels,
            classifier_activation=classifier_activation,
            dtype=dtype,
            name=f"upernet_{vit.name}" if name is None else name,
        )

    size = builder.__name__
    build.__name__ = build.__qualname__ = f"UperNet_{size}"
    build.__doc__ = inspect.cleandoc(f"""
    Builds UperNet with {channels} channels on the blocks 3, 5, 7 and 11 of {size}.

    Args:
        classes: number of classes.
        weights: as of `{size}`: `None`, a name, or the path of a classification model's
            file. Its blocks are loaded and its position embedding is resampled to
            `input_shape`; its norm and head are left out. UperNet's head is random.
        input_shape: `(height, width, channels)` of the images to train on, which the
            position embedding is made for; the model takes other sizes as well,
            for which it is resampled. Height and width are multiples of the patch size.
        classifier_activation: `"softmax"` for probabilities, `None` for logits.
        dtype: dtype or dtype policy of the layers.
        name: name of the model.
        **vit_arguments: other arguments of `{size}`, such as `broadcast` or
            `drop_path_rate`.

    Returns:
        The model of `UperNet`, which says more.
    """)
    return build


UperNet_ViTCB_Ti = _of_size(ViTCB_Ti, 192)
UperNet_ViTCB_S = _of_size(ViTCB_S, 384)
UperNet_ViTCB_B = _of_size(ViTCB_B, 512)
