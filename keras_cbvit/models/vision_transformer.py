"""The network: a Vision Transformer whose blocks may broadcast context."""

import json

import keras

from keras_cbvit.layers import (
    ClassTokenAndPosition,
    ContextBroadcast,
    EncoderBlock,
    PatchEmbedding,
    fast,
)
from keras_cbvit.layers.arguments import (
    check_shape,
    choice,
    dtype_policy,
    flag,
    name_of_model,
)
from keras_cbvit.layers.initializers import dense_kernel
from keras_cbvit.layers.parts import quantized_layers
from keras_cbvit.models.arguments import (
    BROADCAST_PLACES,
    block_indices,
    check_arguments,
    check_size,
    mlp_dim,
    plain_arguments,
)
from keras_cbvit.models.class_names import HasClassNames
from keras_cbvit.models.signed_weights import SignedWeights
from keras_cbvit.pretrained.functions import name_scope

# What a configuration says of a trained model, beside the arguments of the builders.
STATE = ("trainable", "frozen_layers", "class_names")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@keras.saving.register_keras_serializable(package="keras_cbvit")
class VisionTransformer(HasClassNames, SignedWeights, fast.InferenceByXLA, keras.Model):
    """A functional model: normalise, patches, tokens, blocks, norm, pool, head.

    `keras_cbvit.ViTCB` and its sizes build it, with defaults and weights, and
    document the arguments; here all of them are required. The class adds only its
    configuration, so that a `.keras` file tells how to build the model again, and
    `class_names`, which that file keeps.

    Its layers, whose names are for ever: `images`, `normalization`,
    `patch_embedding`, `class_token_and_position`, `block_0` to `block_{depth-1}`,
    `norm`, `pool`, `head`, `predictions`.

    Raises:
        ValueError: on an argument that cannot work, named with what would.
    """

    def __init__(
        self,
        *,
        input_shape,
        patch_size,
        hidden_dim,
        depth,
        num_heads,
        mlp_ratio,
        broadcast,
        broadcast_place,
        broadcast_blocks,
        context,
        drop_path_rate,
        include_preprocessing,
        include_top,
        pooling,
        classes,
        classifier_activation,
        remat=False,
        dtype=None,
        name=None,
        trainable=True,
        frozen_layers=(),
        class_names=None,
    ):
        config = {
            key: value
            for key, value in locals().items()
            if key not in ("self", "__class__", "dtype", "name", *STATE)
        }
        config = plain_arguments(config)
        check_arguments(config)
        trainable = flag("trainable", trainable)
        name = None if name is None else name_of_model("name", name)
        dtype = dtype_policy("dtype", dtype)
        _refuse_quantized(dtype)
        check_size(config, dtype.variable_dtype)
        # Pixels and probabilities are not for 8 bits of mantissa.
        wide = fast.wide_dtype(dtype.compute_dtype)

        images = keras.Input(config["input_shape"], name="images")
        x = images
        if config["include_preprocessing"]:
            x = keras.layers.Normalization(
                mean=[255 * value for value in IMAGENET_MEAN],
                variance=[(255 * value) ** 2 for value in IMAGENET_STD],
                dtype=wide,
                name="normalization",
            )(x)
        x = PatchEmbedding(
            config["patch_size"],
            config["hidden_dim"],
            dtype=dtype,
            name="patch_embedding",
        )(x)
        x = ClassTokenAndPosition(dtype=dtype, name="class_token_and_position")(x)
        for block in self.encoder_blocks(config, dtype):
            x = block(x)
        x = keras.layers.LayerNormalization(epsilon=1e-6, dtype=dtype, name="norm")(x)
        if config["pooling"] is not None:
            x = TokenPooling(config["pooling"], dtype=dtype, name="pool")(x)
        if config["include_top"]:
            x = keras.layers.Dense(
                config["classes"],
                kernel_initializer=dense_kernel(),
                dtype=dtype,
                name="head",
            )(x)
            x = keras.layers.Activation(
                config["classifier_activation"], dtype=wide, name="predictions"
            )(x)

        super().__init__(inputs=images, outputs=x, name=name, trainable=trainable)
        self.dtype_policy = dtype
        self._config = config
        self.class_names = class_names
        scope = name_scope(self)
        for layer in self._flatten_layers(include_self=False):
            if layer.path and layer.path.removeprefix(scope) in frozen_layers:
                layer.trainable = False

    @classmethod
    def encoder_blocks(cls, config, dtype):
        """The layers between the tokens and the norm, in order.

        Ablations (`keras_cbvit.models.ablations`) override this or `encoder_block`.

        Args:
            config: the arguments of the class by name.
            dtype: the dtype policy of the layers.
        """
        return [cls.encoder_block(i, config, dtype) for i in range(config["depth"])]

    @classmethod
    def encoder_block(cls, i, config, dtype, **parts):
        """The block of index `i`; `parts` are other arguments of `EncoderBlock`."""
        depth, broadcast = config["depth"], config["broadcast"]
        if broadcast and i in block_indices(config["broadcast_blocks"], depth):
            for place in BROADCAST_PLACES[config["broadcast_place"]]:
                if place in parts:
                    raise ValueError(
                        f"broadcast={broadcast!r} and {parts[place].name} cannot both "
                        f"be at {place}; set broadcast=None."
                    )
                parts[place] = ContextBroadcast(
                    scale=broadcast == "cbs",
                    context=config["context"],
                    dtype=dtype,
                    name="context_broadcast",
                )
        return EncoderBlock(
            config["num_heads"],
            mlp_dim(config),
            drop_path_rate=config["drop_path_rate"] * i / max(depth - 1, 1),
            remat=config["remat"],
            **parts,
            dtype=dtype,
            name=f"block_{i}",
        )

    def get_config(self):
        scope = name_scope(self)
        quantized = {
            path.removeprefix(scope): how
            for path, how in quantized_layers(self).items()
        }
        return {
            **self._config,
            **({"quantized": quantized} if quantized else {}),
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
            "frozen_layers": [
                layer.path.removeprefix(scope)
                for layer in self._flatten_layers(include_self=False)
                if layer.path and not layer.trainable
            ],
            "class_names": self.class_names and list(self.class_names),
        }

    @property
    def _number_of_classes(self):
        return self._config["classes"] if self._config["include_top"] else 0

    @classmethod
    def from_config(cls, config, custom_objects=None):
        quantized = config.get("quantized", {})
        model = cls(**{key: config[key] for key in config.keys() - {"quantized"}})
        scope = name_scope(model)
        for how in {json.dumps(each): each for each in quantized.values()}.values():
            model.quantize(
                keras.dtype_policies.get(how["dtype"]).quantization_mode,
                keras.saving.deserialize_keras_object(how["quantization_config"]),
                filters=lambda layer, how=how: (
                    quantized.get((layer.path or "").removeprefix(scope)) == how
                ),
            )
        return model


@keras.saving.register_keras_serializable(package="keras_cbvit")
class TokenPooling(keras.layers.Layer):
    """From tokens to one vector: the class token, or the mean of the others.

    Args:
        pooling: `"token"` or `"avg"`.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of shape `(batch, 1 + tokens, channels)`.

    Returns:
        A tensor of shape `(batch, channels)`.

    Raises:
        ValueError: on an unknown `pooling`, or inputs of another rank.
    """

    def __init__(self, pooling, **kwargs):
        super().__init__(**kwargs)
        self.pooling = choice("pooling", pooling, ("token", "avg"))
        self.input_spec = keras.layers.InputSpec(ndim=3)
        self.built = True

    def call(self, inputs):
        if self.pooling == "token":
            return inputs[:, 0]
        return fast.mean(inputs[:, 1:], axis=1)

    def compute_output_shape(self, input_shape):
        check_shape(self, input_shape)
        return (input_shape[0], input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "pooling": self.pooling}


def _refuse_quantized(dtype):
    """A model is built in floats; Keras's layers compute wrongly under a mixed map."""
    is_map = isinstance(dtype, keras.dtype_policies.DTypePolicyMap)
    policies = [dtype, *(dtype.values() if is_map else ())]
    if any(policy.quantization_mode is not None for policy in policies):
        raise ValueError(
            f"dtype={dtype.name!r} quantizes layers that have no weights yet; build "
            "the model in floats, then call model.quantize(...)."
        )
