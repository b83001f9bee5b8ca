"""Semantic segmentation: UperNet on a Vision Transformer or any other backbone."""

from collections.abc import Sequence
from typing import Any, Self

import keras

from keras_cbvit import backend
from keras_cbvit.annotations import DType
from keras_cbvit.arguments import format_value, keras_activation, refuse, whole_number
from keras_cbvit.layers import FCNHead, FeatureScales, ResizeLike, UperHead
from keras_cbvit.models.base import ZooModel, float_policy
from keras_cbvit.models.lora import check_no_lora
from keras_cbvit.models.spec import ViTSpec
from keras_cbvit.models.vision_transformer import VisionTransformer

BLOCKS = (3, 5, 7, 11)
"""The blocks whose outputs XCiT, and the paper, use for models of 12 blocks."""
UPER_HEAD = "uper_head"


@keras.saving.register_keras_serializable(package="keras_cbvit")
class FeaturePyramid(ZooModel):
    """A backbone that outputs feature maps of a Vision Transformer after four blocks.

    The maps have strides of 4, 8, 16 and 32 pixels for patches of 16 (see the layer
    `FeatureScales`). No final norm is applied, as in XCiT's models for ADE20K.

    Args:
        vit: a `VisionTransformer` for images of any size, `input_shape=(None, None,
            3)`. The pyramid shares its layers, except for its norm and head.
        blocks: ascending indices of four blocks, counted from 0.
        dtype: dtype or dtype policy of the layer `FeatureScales`.
        name: name of the model.
        trainable: whether the model is trainable.
        frozen_layers: paths of layers that are not trainable.
        class_names: always `None`.

    Call arguments:
        inputs: images of shape `(batch, height, width, channels)`. Height and width
            must be multiples of the patch size, at least two patches.

    Returns:
        A list of four maps, the finest first.

    Raises:
        ValueError: if `vit` is another model or does not have these blocks.
    """

    anchor = "feature_scales"

    def __init__(
        self,
        vit: VisionTransformer,
        blocks: Sequence[int] = BLOCKS,
        *,
        dtype: DType = None,
        name: str | None = None,
        trainable: bool = True,
        frozen_layers: Sequence[str] = (),
        class_names: Sequence[str] | None = None,
    ):
        check_vision_transformer("vit", vit)
        maps = vit.pyramid_outputs(blocks)
        if len(maps) != 4:
            refuse(
                "blocks", blocks, f"must be indices of four blocks, not {len(maps)}."
            )
        dtype = float_policy(dtype)
        scales = FeatureScales(dtype=dtype, name=self.anchor)
        # In a function, so that Keras does not track the model as a sublayer.
        self._own = lambda: {"vit": vit, "blocks": tuple(map(int, blocks))}
        super().__init__(
            vit.inputs[0],
            scales(maps),
            dtype=dtype,
            name=f"{vit.name}_pyramid" if name is None else name,
            trainable=trainable,
            frozen_layers=frozen_layers,
            class_names=class_names,
        )

    @property
    def spec(self) -> ViTSpec:
        """The `ViTSpec` of the Vision Transformer."""
        return self._own()["vit"].spec

    @property
    def num_classes(self) -> None:
        return None

    @property
    def own_config(self) -> dict[str, Any]:
        own = self._own()
        vit = keras.saving.serialize_keras_object(own["vit"])
        return {"vit": vit, "blocks": list(own["blocks"])}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        vit = keras.saving.deserialize_keras_object(config["vit"])
        return super().from_config({**config, "vit": vit})


@keras.saving.register_keras_serializable(package="keras_cbvit")
class SegmentationModel(ZooModel):
    """UperNet: semantic segmentation on the feature maps of a backbone.

    The paper uses it for ADE20K (section 4). The head is mmsegmentation's `UPerHead`
    (see the layer `UperHead`); its logits are resized to the images in float32.
    `UperNet_ViTCB_Ti`, `_S` and `_B` build it on a Vision Transformer.

    Args:
        backbone: a functional `keras.Model` from images to four feature maps, the
            finest first, such as a `FeaturePyramid`. This model shares its layers.
        classes: number of classes.
        channels: channels of the head; the paper uses 192, 384 and 512 for ViT-Ti, S
            and B.
        classifier_activation: `"softmax"` for probabilities, `None` for logits.
        dtype: dtype or dtype policy of the head, for instance `"mixed_bfloat16"`.
            Predictions use at least float32.
        name: name of the model.
        trainable: whether the model is trainable.
        frozen_layers: paths of layers that are not trainable.
        class_names: names of the classes in order, saved with the model.

    Call arguments:
        inputs: images of shape `(batch, height, width, channels)`, of any size that the
            backbone takes; for others see `predict_whole` and `predict_sliding`.

    Returns:
        Predictions of shape `(batch, height, width, classes)`.

    Raises:
        ValueError: if the backbone does not output four feature maps, or an argument is
            invalid.

    Example:
        >>> resnet = keras.applications.ResNet50(include_top=False, weights=None)
        >>> stages = ("conv2_block3", "conv3_block4", "conv4_block6", "conv5_block3")
        >>> maps = [resnet.get_layer(f"{stage}_out").output for stage in stages]
        >>> backbone = keras.Model(resnet.input, maps)
        >>> model = SegmentationModel(backbone, classes=150, channels=512)
    """

    anchor = UPER_HEAD

    def __init__(
        self,
        backbone: keras.Model,
        classes: int,
        channels: int,
        classifier_activation: str | None = None,
        *,
        dtype: DType = None,
        name: str | None = "upernet",
        trainable: bool = True,
        frozen_layers: Sequence[str] = (),
        class_names: Sequence[str] | None = None,
    ):
        _check_backbone(backbone)
        self._classes = whole_number("classes", classes)
        self._channels = whole_number("channels", channels)
        self._activation = keras_activation(
            "classifier_activation", classifier_activation
        )
        dtype = float_policy(dtype)
        images = backbone.inputs[0]
        head = UperHead(classes, channels, dtype=dtype, name=UPER_HEAD)
        # In a function, so that Keras does not track the model as a sublayer.
        self._get_backbone = lambda: backbone
        super().__init__(
            images,
            self._predict(head(backbone.outputs), images, "predictions"),
            dtype=dtype,
            name=name,
            trainable=trainable,
            frozen_layers=frozen_layers,
            class_names=class_names,
        )

    def _predict(self, logits, images, name):
        """Resizes logits to the images and applies the activation."""
        # bfloat16 is too coarse for interpolation and probabilities.
        wide = backend.wide_dtype(logits.dtype)
        x = ResizeLike(dtype=wide, name=f"{name}_logits")(logits, images)
        return keras.layers.Activation(self._activation, dtype=wide, name=name)(x)

    @property
    def spec(self) -> ViTSpec | None:
        """The `ViTSpec` of the Vision Transformer; `None` for other backbones."""
        backbone = self._get_backbone()
        return backbone.spec if isinstance(backbone, FeaturePyramid) else None

    @property
    def head(self) -> UperHead:
        """The `UperHead` layer, from feature maps to logits."""
        return self.get_layer(UPER_HEAD)

    @property
    def num_classes(self) -> int:
        return self._classes

    @property
    def own_config(self) -> dict[str, Any]:
        return {
            "backbone": keras.saving.serialize_keras_object(self._get_backbone()),
            "classes": self._classes,
            "channels": self._channels,
            "classifier_activation": self._activation,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return super().from_config({**config, "backbone": backbone})

    def with_auxiliary_head(self, channels: int = 256) -> keras.Model:
        """Returns a model for training that also has an auxiliary head.

        The returned model shares its layers with this one. After training it, predict
        with and save this model, without the auxiliary head. That head is an `FCNHead`
        on the third feature map with random initial weights.

        Args:
            channels: channels of the auxiliary head.

        Returns:
            A functional `keras.Model` from images to a dict: `"predictions"`, as in
            this model, and `"auxiliary"`, with the same shape and activation.

        Raises:
            ValueError: if `channels` is not a positive whole number.

        Example:
            >>> training = model.with_auxiliary_head()
            >>> training.compile(
            ...     "adamw",
            ...     loss={"predictions": loss, "auxiliary": loss},
            ...     loss_weights={"predictions": 1.0, "auxiliary": 0.4},
            ... )
            >>> training.fit(images, {"predictions": labels, "auxiliary": labels})
            >>> model.save("upernet.keras")
        """
        third = self.head.input[2]
        dtype = self.head.dtype_policy
        head = FCNHead(self.num_classes, channels, dtype=dtype, name="auxiliary_head")
        auxiliary = self._predict(head(third), self.input, "auxiliary")
        outputs = {"predictions": self.output, "auxiliary": auxiliary}
        return keras.Model(self.input, outputs, name=f"{self.name}_training")


def feature_pyramid(
    model: VisionTransformer, blocks: Sequence[int] = BLOCKS
) -> FeaturePyramid:
    """Builds a `FeaturePyramid` with the weights of a Vision Transformer.

    Args:
        model: a `VisionTransformer`. Its weights are copied, except for its norm and
            head. The pyramid resamples the position embedding to the size of its
            images.
        blocks: ascending indices of four blocks, counted from 0.

    Raises:
        ValueError: if `model` is another model, does not have these blocks, or has
            LoRA.
    """
    check_vision_transformer("model", model)
    check_no_lora(model)
    config = model.get_config()
    spec = model.spec.replace(
        input_shape=(None, None, model.spec.input_shape[2]),
        position_grid=model.spec.grid,
        pooling=None,
        classes=None,
    )
    vit = type(model).from_config(
        {**config, "spec": spec.to_json(), "class_names": None}
    )
    values = model.weights_by_name()
    for name, weight in vit.weights_by_name().items():
        # Not the variable: on JAX, both models would share its buffer.
        weight.assign(keras.ops.convert_to_numpy(values[name]))
    return FeaturePyramid(vit, blocks, dtype=model.dtype_policy)


def check_vision_transformer(argument: str, model: Any) -> None:
    """Raises a ValueError unless a model is a `VisionTransformer`."""
    if not isinstance(model, VisionTransformer):
        raise ValueError(
            f"{argument} is a {type(model).__name__}, not a VisionTransformer, such as "
            "ViTCB builds."
        )


def _check_backbone(backbone):
    outputs = getattr(backbone, "outputs", None)
    if outputs is None or len(backbone.inputs) != 1:
        raise ValueError(
            "backbone must be a functional keras.Model from images to four feature "
            f"maps, not {format_value(backbone)}."
        )
    shapes = [output.shape for output in outputs]
    if len(shapes) != 4 or any(len(shape) != 4 for shape in shapes):
        raise ValueError(
            f"backbone={backbone.name!r} has outputs of shapes {format_value(shapes)}; "
            "UperNet requires four feature maps of shape (batch, height, width, "
            "channels), the finest first; see feature_pyramid."
        )
    for axis in (1, 2):
        sides = [shape[axis] for shape in shapes if shape[axis] is not None]
        if sides != sorted(sides, reverse=True):
            raise ValueError(
                f"backbone={backbone.name!r} has feature maps of shapes "
                f"{format_value(shapes)}; UperNet requires the finest first."
            )
