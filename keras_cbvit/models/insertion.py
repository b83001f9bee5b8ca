"""Inserts Context Broadcasting into models of other packages."""

import difflib
import fnmatch
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from keras_cbvit.arguments import flag, format_value, items, name_of_model, refuse
from keras_cbvit.internals import forget_calls, layers_within, replace_part
from keras_cbvit.layers.context_broadcast_wrapper import ContextBroadcastWrapper
from keras_cbvit.models.base import WholeFileModel


def insert_context_broadcast(
    model: keras.Model,
    after: str | Sequence[str],
    scale: bool = True,
    name: str | None = None,
) -> keras.Model:
    """Returns a copy of a model with Context Broadcasting after some of its layers.

    The copy has the weights of the model and shares nothing with it. With `scale`
    (CB_S), Λ starts at 0, so the copy predicts like the model until it is trained;
    without (CB), its predictions differ at once.

    A layer's path consists of the names of the models and layers that contain it and
    its own name, separated by slashes. For the paper's CB at the end of each MLP use

    - `after="*/mlp"` for KerasHub's ViT,
    - `after="*/output_layer/output"` for KerasHub's DeiT,
    - `after="blocks_*_mlp_fc2"` for kimm's ViT.

    The copy is a functional model that can be saved and loaded; import `keras_cbvit`
    and the package of the model before loading. Each chosen layer is wrapped together
    with CB under its own name. The copy has neither the methods of the model's class,
    such as KerasHub's preprocessing, nor its compilation. A layer that is called more
    than once has one Λ. Λ is trained even if its layer is frozen, unless a layer that
    contains both is frozen.

    Args:
        model: a functional or built sequential model that can be rebuilt from its
            configuration and is not quantized. It is not changed.
        after: path of a layer, or several; `*` matches any characters, slashes
            included. The layers must return one tensor of shape `(batch, tokens,
            channels)`.
        scale: whether to learn Λ (CB_S) or to average (CB).
        name: name of the copy. Defaults to that of the model.

    Returns:
        The copy, not compiled.

    Raises:
        ValueError: if no layer matches, CB cannot follow a layer, or the model cannot
            be copied.

    Example:
        >>> backbone = keras_hub.models.ViTBackbone.from_preset(...)
        >>> backbone = keras_cbvit.insert_context_broadcast(backbone, after="*/mlp")
    """
    if not has_graph(model):
        refuse("model", model, "must be a functional or built sequential keras.Model.")
    check_not_quantized(model)
    copy = copy_model(model)
    return ContextBroadcastModel(copy, after, scale, name=name or model.name)


@keras.saving.register_keras_serializable(package="keras_cbvit")
class ContextBroadcastModel(WholeFileModel):
    """A functional model with the layers of another model and CB after some of them.

    Its configuration holds that of the other model and the paths of the layers.

    Args:
        model: a functional model whose layers this model takes over. It must not be
            used afterwards.
        after, scale, name: see `insert_context_broadcast`.
        frozen_layers: paths of layers that are not trainable. Defaults to those of
            `model`.
        **kwargs: those of `keras.Model`.
    """

    def __init__(
        self,
        model: keras.Model,
        after: str | Sequence[str],
        scale: bool = True,
        name: str | None = None,
        frozen_layers: Sequence[str] | None = None,
        **kwargs: Any,
    ):
        patterns = [after] if isinstance(after, str) else items(after)
        if not patterns or not all(isinstance(each, str) for each in patterns):
            refuse("after", after, "must be the path of a layer, or a list of paths.")
        scale = flag("scale", scale)
        name = None if name is None else name_of_model("name", name)
        own_config = {"model": serialize(model), "after": patterns, "scale": scale}
        targets = match_layers(model, patterns)
        inputs, outputs = _Insertion(targets, scale).insert(model)
        # Set before the model becomes a functional one. JSON: TensorFlow wraps dicts.
        self._own_config = json.dumps(own_config)
        super().__init__(inputs, outputs, name=name, **kwargs)
        if frozen_layers is not None:
            for path, layer in layers_by_path(self):  # outer layers first
                layer.trainable = path not in frozen_layers

    def get_config(self) -> dict[str, Any]:
        check_not_quantized(self)
        frozen = [path for path, each in layers_by_path(self) if not each.trainable]
        return {
            **json.loads(self._own_config),
            "name": self.name,
            "trainable": self.trainable,
            "frozen_layers": frozen,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        model = keras.saving.deserialize_keras_object(
            config["model"], custom_objects=custom_objects
        )
        return cls(**{**config, "model": model})


class _Insertion:
    """Replaces some layers of a model with wrappers."""

    def __init__(self, targets, scale):
        self.targets = targets  # by the layer's id
        self.scale = scale
        self.wrappers = []
        self.replaced = {}

    def insert(self, model):
        """Returns the inputs and outputs of the model's graph with the wrappers."""
        try:
            changed = self.rebuild(model)
            is_sequential = isinstance(changed, keras.Sequential)
            ends = (changed.inputs[0], changed.outputs[0]) if is_sequential else ()
            inputs, outputs = ends or (changed.input, changed.output)
            # Calls nested layers, too, which the graph skips where shapes are known.
            keras.Operation.compute_output_spec(changed, inputs)
        except Exception as error:
            refusals = [each.refusal for _, each in self.wrappers if each.refusal]
            refusals += [f"{model.name} fails with CB: {format_value(str(error), 200)}"]
            raise ValueError(refusals[0]) from error
        for path, wrapper in self.wrappers:
            if not wrapper.context_broadcast.built:
                raise ValueError(
                    f"{path} of {model.name} is never called by the layer that "
                    "contains it, so CB cannot follow it; choose the outer layer or "
                    "another one."
                )
        return inputs, outputs

    def rebuild(self, model):
        """Rebuilds the model's graph with the wrappers, from the same layers."""
        return keras.models.clone_model(model, clone_function=self.replace)

    def replace(self, operation):
        """Returns the operation itself, changed inside, or its wrapper."""
        if id(operation) not in self.replaced:
            forget_calls(operation)
            is_layer = isinstance(operation, keras.layers.Layer)
            new = self._replace(operation) if is_layer else operation
            self.replaced[id(operation)] = new
        return self.replaced[id(operation)]

    def _replace(self, layer):
        new = layer
        if any(id(part) in self.targets for part in layers_within(layer)):
            if has_graph(layer):
                new = self.rebuild(layer)
            else:
                for part in layers_within(layer, recursive=False):
                    changed = self.replace(part)
                    if changed is not part:
                        replace_part(layer, part, changed)
        if id(layer) in self.targets:
            new = ContextBroadcastWrapper(new, self.scale)
            self.wrappers.append((self.targets[id(layer)], new))
        return new


def has_graph(layer: Any) -> bool:
    """Returns whether a layer is a functional model or a built sequential one."""
    return isinstance(layer, keras.Model) and bool(getattr(layer, "inputs", None))


def layers_by_path(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields all layers of a model with their paths, outer layers first.

    Unlike `layer.path`, the paths contain the names of nested models.
    """
    for layer in layers_within(model, recursive=False):
        yield layer.name, layer
        for path, part in layers_by_path(layer):
            yield f"{layer.name}/{path}", part


def match_layers(model: keras.Model, patterns: Sequence[str]) -> dict[int, str]:
    """Returns the paths of the layers that match patterns, by the layers' ids.

    Raises:
        ValueError: if a pattern matches no layer.
    """
    paths = list(layers_by_path(model))
    found = {}
    for pattern in patterns:
        matches = {
            id(layer): path
            for path, layer in paths
            if fnmatch.fnmatchcase(path, pattern)
        }
        if not matches:
            near = _similar(pattern, [path for path, _ in paths])
            examples = ", ".join(map(repr, near[:5]))
            refuse(
                "after",
                pattern,
                f"matches no layer of {model.name}; similar paths are {examples}.",
            )
        inputs = [
            path
            for path, layer in paths
            if id(layer) in matches and isinstance(layer, keras.layers.InputLayer)
        ]
        if inputs:
            refuse(
                "after",
                pattern,
                f"matches {inputs[0]}, which is an input of the model.",
            )
        found |= matches
    return found


def _similar(pattern, paths):
    """Returns paths similar to a pattern without a match, the closest first."""
    words = [word for word in re.split("[*/]", pattern) if word]
    return (
        [path for path in paths if all(word in path for word in words)]
        or fnmatch.filter(paths, f"*/{words[-1]}")
        or difflib.get_close_matches(pattern, paths, cutoff=0.4)
        or paths
    )


def copy_model(model: keras.Model) -> keras.Model:
    """Copies a model by its configuration and weights; the copy is not compiled.

    Raises:
        ValueError: if the configuration does not describe the model.
    """
    # Also finds classes that are not registered with Keras.
    classes = {type(layer).__name__: type(layer) for _, layer in layers_by_path(model)}
    classes[type(model).__name__] = type(model)
    try:
        copy = keras.saving.deserialize_keras_object(serialize(model), classes)
    except Exception as error:
        why = format_value(str(error), 200)
        raise ValueError(
            f"{model.name} cannot be rebuilt from its configuration, so it cannot be "
            f"copied: {why}"
        ) from error
    try:
        for old, new in zip(
            (model, *layers_within(model)), (copy, *layers_within(copy)), strict=True
        ):
            # Like a file: a layer may keep state outside of its weights.
            state = {}
            old.save_own_variables(state)
            # Copied: JAX deletes arrays that a training step has donated.
            state = {k: np.array(ops.convert_to_numpy(v)) for k, v in state.items()}
            new.load_own_variables(state)
            # Outer layers first: setting it also sets it for all nested layers.
            new.trainable = old.trainable
    except ValueError as error:
        raise ValueError(
            f"{model.name} has layers or weights that its configuration does not "
            "describe, so it cannot be copied."
        ) from error
    return copy


def serialize(model: keras.Model) -> dict[str, Any]:
    """Serializes a model without its compilation."""
    return {**keras.saving.serialize_keras_object(model), "compile_config": None}


def check_not_quantized(model: keras.Model) -> None:
    """Raises a ValueError if a layer of a model is quantized."""
    for path, layer in layers_by_path(model):
        if layer.quantization_mode is not None:
            raise ValueError(
                f"{path} of {model.name} is quantized; insert CB and save the model "
                "before you quantize it."
            )
