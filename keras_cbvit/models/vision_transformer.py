"""The network: a Vision Transformer whose blocks may broadcast context."""

import json

import keras
import numpy as np
from keras import ops

from keras_cbvit.layers import (
    ClassTokenAndPosition,
    ContextBroadcast,
    EncoderBlock,
    PatchEmbedding,
    fast,
)
from keras_cbvit.layers.initializers import dense_kernel
from keras_cbvit.layers.parts import quantized_layers
from keras_cbvit.models.arguments import BROADCAST_PLACES, check_arguments

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
            key: _plain(value)
            for key, value in locals().items()
            if key not in ("self", "__class__", "dtype", "name", *STATE)
        }
        check_arguments(config)
        config["input_shape"] = tuple(config["input_shape"])
        if not isinstance(broadcast_blocks, str):
            config["broadcast_blocks"] = [int(index) for index in broadcast_blocks]
        dtype = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        _refuse_quantized(dtype)
        # Pixels and probabilities are not for 8 bits of mantissa.
        wide = keras.backend.result_type(dtype.compute_dtype, "float32")

        images = keras.Input(tuple(input_shape), name="images")
        x = images
        if include_preprocessing:
            x = keras.layers.Normalization(
                mean=[255 * value for value in IMAGENET_MEAN],
                variance=[(255 * value) ** 2 for value in IMAGENET_STD],
                dtype=wide,
                name="normalization",
            )(x)
        x = PatchEmbedding(patch_size, hidden_dim, dtype=dtype, name="patch_embedding")(
            x
        )
        x = ClassTokenAndPosition(dtype=dtype, name="class_token_and_position")(x)
        for block in self.encoder_blocks(config, dtype):
            x = block(x)
        x = keras.layers.LayerNormalization(epsilon=1e-6, dtype=dtype, name="norm")(x)
        if pooling is not None:
            x = TokenPooling(pooling, dtype=dtype, name="pool")(x)
        if include_top:
            x = keras.layers.Dense(
                classes, kernel_initializer=dense_kernel(), dtype=dtype, name="head"
            )(x)
            x = keras.layers.Activation(
                classifier_activation, dtype=wide, name="predictions"
            )(x)

        super().__init__(inputs=images, outputs=x, name=name, trainable=trainable)
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
            int(config["hidden_dim"] * config["mlp_ratio"]),
            drop_path_rate=config["drop_path_rate"] * i / max(depth - 1, 1),
            remat=config["remat"],
            **parts,
            dtype=dtype,
            name=f"block_{i}",
        )

    def get_config(self):
        quantized = quantized_layers(self)
        return {
            **self._config,
            **({"quantized": quantized} if quantized else {}),
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
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
        quantized = config.get("quantized", {})
        model = cls(**{key: config[key] for key in config.keys() - {"quantized"}})
        for how in {json.dumps(each): each for each in quantized.values()}.values():
            model.quantize(
                keras.dtype_policies.get(how["dtype"]).quantization_mode,
                keras.saving.deserialize_keras_object(how["quantization_config"]),
                filters=lambda layer, how=how: quantized.get(layer.path) == how,
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
    """

    def __init__(self, pooling, **kwargs):
        super().__init__(**kwargs)
        self.pooling = pooling
        self.built = True

    def call(self, inputs):
        if self.pooling == "token":
            return inputs[:, 0]
        return ops.mean(inputs[:, 1:], axis=1)

    def compute_output_shape(self, input_shape):
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


def _plain(value):
    """NumPy's numbers and arrays as Python's, which a configuration can keep."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, tuple | list):
        return type(value)(_plain(item) for item in value)
    return value


def block_indices(broadcast_blocks, depth):
    """The blocks, counted from 0, that `broadcast_blocks` names.

    `"all"`, `"upper"` (the last half: the paper's Table 9 says only "upper
    layers", this is the project's reading) or a sequence of indices.
    """
    if isinstance(broadcast_blocks, str):
        return range({"all": 0, "upper": depth // 2}[broadcast_blocks], depth)
    return tuple(broadcast_blocks)
