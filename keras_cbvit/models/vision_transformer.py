"""The Vision Transformer."""

import functools
import weakref
from collections.abc import Sequence
from typing import Any

import keras

from keras_cbvit import backend
from keras_cbvit.annotations import DType, Tensor
from keras_cbvit.arguments import check_memory, flag, indices_of_blocks, refuse
from keras_cbvit.layers import (
    MLP,
    ContextBroadcast,
    EncoderBlock,
    LayerScale,
    MultiHeadSelfAttention,
    PatchEmbedding,
    Residual,
    SqueezeExcitation,
    TokenEmbedding,
    TokenMap,
    TokenPooling,
    UniformHeadSelfAttention,
)
from keras_cbvit.layers.encoder_block import PLACES
from keras_cbvit.layers.initializers import dense_kernel
from keras_cbvit.models.base import ZooModel, float_policy
from keras_cbvit.models.size import count_weights
from keras_cbvit.models.spec import SE_RATIO, ViTSpec

# Names of layers, which are part of the weights' paths and must never change.
NORMALIZATION = "normalization"
PATCHES = "patch_embedding"
TOKENS = "token_embedding"
HEAD = "head"
DISTILLATION_HEAD = "distillation_head"
HEADS = (HEAD, DISTILLATION_HEAD)


@keras.saving.register_keras_serializable(package="keras_cbvit")
class VisionTransformer(ZooModel):
    """A Vision Transformer as a functional model.

    To build one with pretrained weights, use `keras_cbvit.create_model`, `ViTCB` or
    one of its sizes.

    Depending on the spec, the layers are `images`, `normalization`, `patch_embedding`,
    `token_embedding`, `pre_norm`, `block_0` to `block_{depth-1}`, `extra_branch`,
    `norm`, `pool`, `head` and `predictions`, and for pooling `"distilled"` also
    `distillation_pool`, `distillation_head` and `mean_of_heads`.

    Args:
        spec: a `ViTSpec`, or its fields as a dict.
        dtype: dtype or dtype policy of the layers, for instance `"mixed_bfloat16"`.
            Normalization of pixels and predictions use at least float32.
        name: name of the model.
        trainable: whether the model is trainable.
        frozen_layers: paths of layers that are not trainable.
        class_names: names of the classes in order, saved with the model.
        images: an existing `keras.Input` to build the model on.

    Attributes:
        feature_models: the models from `feature_model` that are in use; they share the
            layers of this model.

    Call arguments:
        inputs: images of shape `(batch, height, width, channels)`, with values 0-255 if
            the spec includes preprocessing.

    Returns:
        Predictions of shape `(batch, classes)` with a head, else `(batch, hidden_dim)`,
        or `(batch, tokens, hidden_dim)` without pooling; at least float32 with a head.

    Raises:
        ValueError: if an argument is invalid.
    """

    anchor = PATCHES

    def __init__(
        self,
        spec: ViTSpec | dict[str, Any],
        *,
        dtype: DType = None,
        name: str | None = None,
        trainable: bool = True,
        frozen_layers: Sequence[str] = (),
        class_names: Sequence[str] | None = None,
        images: Any = None,
    ):
        spec = spec if isinstance(spec, ViTSpec) else ViTSpec(**spec)
        policy = float_policy(dtype)
        names = ["hidden_dim", "depth", "input_shape", "patch_size"]
        names += ["position_grid"] if spec.position_grid else []
        size = ", ".join(f"{name}={getattr(spec, name)}" for name in names)
        check_memory(f"A model of {size}", count_weights(spec), policy.variable_dtype)
        # bfloat16 is too coarse for pixels and probabilities.
        wide = backend.wide_dtype(policy.compute_dtype)

        images = (
            keras.Input(spec.input_shape, name="images") if images is None else images
        )
        x = images
        if spec.include_preprocessing:
            x = keras.layers.Normalization(
                mean=[255 * value for value in spec.mean],
                variance=[(255 * value) ** 2 for value in spec.std],
                dtype=wide,
                name=NORMALIZATION,
            )(x)
        x = PatchEmbedding(
            spec.patch_size, spec.hidden_dim, dtype=policy, name=PATCHES
        )(x)
        x = TokenEmbedding(
            spec.patch_size,
            spec.grid,
            spec.num_register_tokens,
            spec.prefix_position_embedding,
            spec.class_token,
            spec.distillation_token,
            dtype=policy,
            name=TOKENS,
        )(x, images)
        if spec.pre_norm:
            x = _layer_norm(spec, policy, "pre_norm")(x)
        for i in range(spec.depth):
            x = self.encoder_block(i, spec, policy)(x)
        if spec.extra_branch != "none":
            x = _extra_branch(spec, policy)(x)
        norm = _layer_norm(spec, policy, "norm")
        norm_is_last = spec.fc_norm and spec.pooling is not None
        x = x if norm_is_last else norm(x)
        if spec.classes is not None and spec.pooling == "distilled":
            x = keras.layers.Average(dtype=policy, name="mean_of_heads")(
                [
                    _head(spec, policy, HEAD)(_pool(spec, policy, "token")(x)),
                    _head(spec, policy, DISTILLATION_HEAD)(
                        _pool(spec, policy, "distillation", "distillation_pool")(x)
                    ),
                ]
            )
        elif spec.pooling is not None:
            x = _pool(spec, policy, spec.pooling)(x)
            x = norm(x) if norm_is_last else x
            x = x if spec.classes is None else _head(spec, policy, HEAD)(x)
        if spec.classes is not None:
            x = keras.layers.Activation(
                spec.classifier_activation, dtype=wide, name="predictions"
            )(x)
        # Set before the model becomes a functional one.
        self._spec = spec
        super().__init__(
            images,
            x,
            dtype=policy,
            name=name,
            trainable=trainable,
            frozen_layers=frozen_layers,
            class_names=class_names,
        )
        self._cached_feature_model = functools.cache(self.feature_model)
        self.feature_models = weakref.WeakSet()

    @classmethod
    def encoder_block(cls, i: int, spec: ViTSpec, dtype: DType) -> EncoderBlock:
        """Builds the block of index `i`. Subclasses may override it."""
        at = {place: [] for place in PLACES}
        contexts = spec.contexts()
        for place in PLACES:
            if (i, place) in contexts:
                scale, context = contexts[i, place]
                broadcast = ContextBroadcast(
                    scale, context, dtype=dtype, name="context_broadcast"
                )
                at[place].append(broadcast)
        if spec.squeeze_excitation:
            excitation = SqueezeExcitation(
                SE_RATIO, dtype=dtype, name="squeeze_excitation"
            )
            at["mlp_end"].append(excitation)
        if spec.layer_scale is not None:
            for place in ("msa_end", "mlp_end"):
                scale = LayerScale(spec.layer_scale, dtype=dtype, name="layer_scale")
                at[place].append(scale)
        if spec.uniform_head != "none":
            at["attention"] = UniformHeadSelfAttention(
                *spec.uniform_heads, dtype=dtype, name="attention"
            )
        else:
            at["attention"] = _attention(spec, dtype)
        return EncoderBlock(
            spec.num_heads,
            spec.mlp_dim,
            drop_path_rate=spec.drop_path_rate * i / max(spec.depth - 1, 1),
            remat=spec.remat,
            epsilon=spec.epsilon,
            **at,
            activation=spec.activation,
            dtype=dtype,
            name=f"block_{i}",
        )

    @property
    def spec(self) -> ViTSpec:
        """The `ViTSpec` of the model."""
        return self._spec

    @property
    def blocks(self) -> list[EncoderBlock]:
        """The encoder blocks, in order."""
        return [self.get_layer(f"block_{i}") for i in range(self.spec.depth)]

    @property
    def head(self) -> keras.layers.Dense | None:
        """The classification head, or `None`."""
        return None if self.spec.classes is None else self.get_layer(HEAD)

    @property
    def heads(self) -> list[keras.layers.Dense]:
        """The classification heads: none, one, or two for a distilled model."""
        if self.spec.classes is None:
            return []
        names = HEADS if self.spec.pooling == "distilled" else (HEAD,)
        return [self.get_layer(name) for name in names]

    @property
    def num_classes(self) -> int | None:
        return self.spec.classes

    @property
    def own_config(self) -> dict[str, Any]:
        return {"spec": self.spec.to_json()}

    def make_predict_function(self, force: bool = False) -> Any:
        with backend.inference_by_xla(self):
            return super().make_predict_function(force)

    def features(
        self,
        images: Tensor,
        blocks: Sequence[int] | None = None,
        norm: bool = False,
        reshape: bool = True,
    ) -> list[Tensor]:
        """Returns the tokens after some blocks, as feature maps.

        Corresponds to timm's `forward_intermediates`. Runs eagerly and supports
        gradients; for many images, build a `feature_model` once and use its `predict`.

        Args:
            images: images, as for a call of the model.
            blocks: ascending indices of blocks, counted from 0; `None` for all.
            norm: whether to apply the last layer norm to each output.
            reshape: whether to reshape the patch tokens to maps. Otherwise, all tokens
                are returned, prefix tokens first.

        Returns:
            A list with one tensor per block, of shape `(batch, height/patch_size,
            width/patch_size, hidden_dim)`, or `(batch, tokens, hidden_dim)`.

        Raises:
            ValueError: if `blocks` is invalid, or `norm` is true for a model that
                normalizes after pooling.
        """
        blocks = (
            blocks
            if blocks is None
            else tuple(indices_of_blocks("blocks", blocks, self.spec.depth))
        )
        # flag() first: other values may not be hashable.
        model = self._cached_feature_model(
            blocks, flag("norm", norm), flag("reshape", reshape)
        )
        outputs = model(images, training=False)
        return outputs if isinstance(outputs, list) else [outputs]

    def feature_model(
        self,
        blocks: Sequence[int] | None = None,
        norm: bool = False,
        reshape: bool = True,
    ) -> keras.Model:
        """Returns a model from images to `features` that shares this model's layers.

        Arguments and errors are those of `features`. The model can be saved.

        Returns:
            A functional `keras.Model` with one output, or a list of outputs for several
            blocks.
        """
        blocks = range(self.spec.depth) if blocks is None else blocks
        if flag("reshape", reshape):
            outputs = self.pyramid_outputs(blocks, norm)
        else:
            outputs = self.block_outputs(blocks, norm)
        model = keras.Model(self.inputs[0], outputs, name=f"{self.name}_features")
        self.feature_models.add(model)
        return model

    def pyramid_outputs(
        self, indices: Sequence[int], norm: bool = False
    ) -> list[Tensor]:
        """Returns the patch tokens after some blocks as symbolic feature maps.

        Args:
            indices: ascending indices of blocks, counted from 0.
            norm: whether to apply the last layer norm to each output.

        Returns:
            A list of symbolic tensors of the model's graph, of shape `(batch,
            height/patch_size, width/patch_size, hidden_dim)`.

        Raises:
            ValueError: as `features`.
        """
        sizes = self.spec.patch_size, self.spec.num_prefix_tokens
        outputs = zip(
            indices_of_blocks("blocks", indices, self.spec.depth),
            self.block_outputs(indices, norm),
            strict=True,
        )
        return [
            TokenMap(*sizes, dtype=self.dtype_policy, name=f"map_{i}")(
                tokens, self.inputs[0]
            )
            for i, tokens in outputs
        ]

    def block_outputs(self, indices: Sequence[int], norm: bool = False) -> list[Tensor]:
        """Like `pyramid_outputs` for all tokens: `(batch, tokens, hidden_dim)`."""
        outputs = [
            self.blocks[i].output
            for i in indices_of_blocks("blocks", indices, self.spec.depth)
        ]
        if not flag("norm", norm):
            return outputs
        if self.spec.fc_norm:
            refuse(
                "norm",
                norm,
                f"must be False: {self.name} normalizes pooled features "
                "(fc_norm=True), not tokens.",
            )
        return [self.get_layer("norm")(tokens) for tokens in outputs]


def _attention(spec, dtype):
    return MultiHeadSelfAttention(
        spec.num_heads,
        spec.qkv_bias,
        spec.qk_norm,
        spec.epsilon,
        dtype=dtype,
        name="attention",
    )


def _layer_norm(spec, dtype, name):
    return keras.layers.LayerNormalization(epsilon=spec.epsilon, dtype=dtype, name=name)


def _pool(spec, dtype, pooling, name="pool"):
    return TokenPooling(pooling, spec.num_prefix_tokens, dtype=dtype, name=name)


def _head(spec, dtype, name):
    return keras.layers.Dense(
        spec.classes, kernel_initializer=dense_kernel(), dtype=dtype, name=name
    )


def _extra_branch(spec, dtype):
    """Builds one more MSA or MLP, with its norm (Figure 2)."""
    if spec.extra_branch == "msa":
        branch = _attention(spec, dtype)
    else:
        branch = MLP(spec.mlp_dim, activation=spec.activation, dtype=dtype, name="mlp")
    return Residual(branch, spec.epsilon, dtype=dtype, name="extra_branch")
