"""The network: a Vision Transformer whose blocks may broadcast context."""

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
from keras_cbvit.models.arguments import (
    BROADCAST_PLACES,
    block_indices,
    check_arguments,
    check_size,
    mlp_dim,
    plain_arguments,
)

# What a configuration says of training, beside the arguments of the builders.
STATE = ("trainable", "frozen_layers")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@keras.saving.register_keras_serializable(package="keras_cbvit")
class VisionTransformer(fast.InferenceByXLA, keras.Model):
    """A functional model: normalise, patches, tokens, blocks, norm, pool, head.

    `keras_cbvit.ViTCB` and its sizes build it, with defaults and weights, and
    document the arguments; here all of them are required. The class adds only its
    configuration, so that a `.keras` file tells how to build the model again.

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
        if isinstance(dtype, keras.dtype_policies.DTypePolicyMap):
            # From a quantised model's file. Dense cannot save under a map.
            for layer in self._flatten_layers(include_self=False):
                if layer.dtype_policy is dtype:
                    layer._dtype_policy = dtype[layer.path or ""]
            dtype = dtype.default_policy
        self.dtype_policy = dtype
        self._config = config
        for layer in self._flatten_layers(include_self=False):
            if layer.path in frozen_layers:
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
        dtype = self.dtype_policy
        quantized = {
            layer.path: layer.dtype_policy
            for layer in self._flatten_layers(include_self=False)
            if layer.quantization_mode is not None
        }
        if quantized:
            dtype = keras.dtype_policies.DTypePolicyMap(dtype, quantized)
        return {
            **self._config,
            "dtype": keras.dtype_policies.serialize(dtype),
            "name": self.name,
            "trainable": self.trainable,
            "frozen_layers": [
                layer.path
                for layer in self._flatten_layers(include_self=False)
                if layer.path and not layer.trainable
            ],
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


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
