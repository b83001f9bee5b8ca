"""Context Broadcasting in models of other packages."""

import difflib
import fnmatch
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from keras_cbvit.arguments import flag, items, name_of_model, refuse, shown
from keras_cbvit.internals import forget_calls, layers_within, replace_part
from keras_cbvit.layers.context_broadcast_wrapper import ContextBroadcastWrapper
from keras_cbvit.models.base import WholeFileModel


def insert_context_broadcast(
    model: keras.Model,
    after: str | Sequence[str],
    scale: bool = True,
    name: str | None = None,
) -> keras.Model:
    """Copies a model, with Context Broadcasting after some of its layers.

    The copy has the weights of the model and shares nothing with it. With `scale`
    (CB_S) Λ is 0 at first, so the copy predicts what the model predicts until it is
    trained; without (CB) it predicts something else at once.

    A layer is named by its path: the names of the models and layers that it is in, and
    its own, with slashes between. Layers of other layers count, too. What the paper
    does, CB at the end of each MLP, is in

    - KerasHub's ViT `after="*/mlp"`,
    - KerasHub's DeiT `after="*/output_layer/output"`,
    - kimm's ViT `after="blocks_*_mlp_fc2"`.

    The copy is a functional model that is saved and loaded as any other; a program that
    loads it imports `keras_cbvit` and the package that the model is of. It has the
    model's layers, and the names of those that CB follows stand for both. It has
    neither the methods of the model's class, such as KerasHub's preprocessing, nor its
    compilation. A layer that is called more than once has one Λ. Λ is trained even if
    the layer that CB follows is frozen, but not if the layer that this is a part of is.

    Args:
        model: a functional or built sequential model that its configuration describes,
            not quantized. It is not changed.
        after: the path of a layer, or several; `*` stands for any characters, slashes
            included. The layers give one tensor of shape `(batch, tokens, channels)`.
        scale: whether to learn Λ (CB_S) or to take halves (CB).
        name: name of the copy; that of the model if not given.

    Returns:
        The copy, not compiled.

    Raises:
        ValueError: if there is no such layer, or CB cannot follow it, or the model
            cannot be copied.

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
    """A functional model of the layers of another, with CB after some of them.

    Its configuration has the other model's, and says where CB is inserted.

    Args:
        model: a functional model, whose layers become those of this model. It cannot
            be used any more.
        after, scale, name: see `insert_context_broadcast`.
        frozen_layers: paths of layers that are not trained; those that are not trained
            in `model` if not given.
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
            refuse("after", after, "must be the path of a layer, or several.")
        scale = flag("scale", scale)
        name = None if name is None else name_of_model("name", name)
        own_config = {"model": serialized(model), "after": patterns, "scale": scale}
        ends = _Insertion(targets(model, patterns), scale).ends_of(model)
        # Before the model is a functional one. As text, since TensorFlow wraps dicts.
        self._own_config = json.dumps(own_config)
        super().__init__(*ends, name=name, **kwargs)
        if frozen_layers is not None:
            for path, layer in layers_by_path(self):  # from the outside in
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
    """Puts wrappers in the place of some layers of a model."""

    def __init__(self, targets, scale):
        self.targets = targets  # by the layer's id
        self.scale = scale
        self.wrappers = []
        self.done = {}

    def ends_of(self, model):
        """The inputs and outputs of the model's graph with wrappers in it."""
        try:
            changed = self.rebuild(model)
            is_sequential = isinstance(changed, keras.Sequential)
            ends = (changed.inputs[0], changed.outputs[0]) if is_sequential else ()
            inputs, outputs = ends or (changed.input, changed.output)
            # Calls parts of layers, too; a graph does not where it knows the shapes.
            keras.Operation.compute_output_spec(changed, inputs)
        except Exception as error:
            refusals = [each.refusal for _, each in self.wrappers if each.refusal]
            refusals += [f"{model.name} fails with CB in it: {shown(str(error), 200)}"]
            raise ValueError(refusals[0]) from error
        for path, wrapper in self.wrappers:
            if not wrapper.context_broadcast.built:
                raise ValueError(
                    f"{path} of {model.name} is not called as a layer by the layer "
                    "that it is in, so that nothing can follow it there; name that "
                    "layer, or another one in it."
                )
        return inputs, outputs

    def rebuild(self, model):
        """The model's graph with wrappers in it, made of the same layers."""
        return keras.models.clone_model(model, clone_function=self.replacement)

    def replacement(self, operation):
        """What stands in the place of a layer: itself, changed inside, or a wrapper."""
        if id(operation) not in self.done:
            forget_calls(operation)
            is_layer = isinstance(operation, keras.layers.Layer)
            new = self._replacement(operation) if is_layer else operation
            self.done[id(operation)] = new
        return self.done[id(operation)]

    def _replacement(self, layer):
        new = layer
        if any(id(part) in self.targets for part in layers_within(layer)):
            if has_graph(layer):
                new = self.rebuild(layer)
            else:
                for part in layers_within(layer, recursive=False):
                    changed = self.replacement(part)
                    if changed is not part:
                        replace_part(layer, part, changed)
        if id(layer) in self.targets:
            new = ContextBroadcastWrapper(new, self.scale)
            self.wrappers.append((self.targets[id(layer)], new))
        return new


def has_graph(layer: Any) -> bool:
    """Whether something is a functional model, or a sequential one that is built."""
    return isinstance(layer, keras.Model) and bool(getattr(layer, "inputs", None))


def layers_by_path(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """All layers of a model with their paths, from the outside in.

    Not `layer.path`, which does not have the models that a layer is in.
    """
    for layer in layers_within(model, recursive=False):
        yield layer.name, layer
        for path, part in layers_by_path(layer):
            yield f"{layer.name}/{path}", part


def targets(model: keras.Model, patterns: Sequence[str]) -> dict[int, str]:
    """The paths of the layers that match patterns, by the layers' ids.

    Raises:
        ValueError: if a pattern matches no layer, with similar paths.
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
                f"is the path of no layer of {model.name}; there is {examples}.",
            )
        inputs = [
            path
            for path, layer in paths
            if id(layer) in matches and isinstance(layer, keras.layers.InputLayer)
        ]
        if inputs:
            refuse("after", pattern, f"{inputs[0]} is an input of the model.")
        found |= matches
    return found


def _similar(pattern, paths):
    """Paths that a pattern without a match may mean, the closest first."""
    words = [word for word in re.split("[*/]", pattern) if word]
    return (
        [path for path in paths if all(word in path for word in words)]
        or fnmatch.filter(paths, f"*/{words[-1]}")
        or difflib.get_close_matches(pattern, paths, cutoff=0.4)
        or paths
    )


def copy_model(model: keras.Model) -> keras.Model:
    """A model with the same configuration and weights, not compiled.

    Raises:
        ValueError: if the configuration does not describe the model.
    """
    # Classes that are not registered are here, even if a file's are not.
    classes = {type(layer).__name__: type(layer) for _, layer in layers_by_path(model)}
    classes[type(model).__name__] = type(model)
    try:
        copy = keras.saving.deserialize_keras_object(serialized(model), classes)
    except Exception as error:
        why = shown(str(error), 200)
        raise ValueError(
            f"{model.name} cannot be built again from its configuration, so it can be "
            f"neither copied nor loaded from a file: {why}"
        ) from error
    try:
        for old, new in zip(
            (model, *layers_within(model)), (copy, *layers_within(copy)), strict=True
        ):
            # As by a file: a layer may keep its state otherwise than in its weights.
            state = {}
            old.save_own_variables(state)
            # Arrays of its own: JAX deletes those that a training step has used up.
            state = {k: np.array(ops.convert_to_numpy(v)) for k, v in state.items()}
            new.load_own_variables(state)
            # From the outside in: a layer hands it down to its parts.
            new.trainable = old.trainable
    except ValueError as error:
        raise ValueError(
            f"{model.name} has other layers or weights than its configuration "
            "describes, so it can be neither copied nor loaded from a file."
        ) from error
    return copy


def serialized(model: keras.Model) -> dict[str, Any]:
    """What a model is built from again, without its compilation."""
    return {**keras.saving.serialize_keras_object(model), "compile_config": None}


def check_not_quantized(model: keras.Model) -> None:
    """Raises a ValueError if a layer of a model is quantized."""
    for path, layer in layers_by_path(model):
        if layer.quantization_mode is not None:
            raise ValueError(
                f"{path} of {model.name} is quantized; insert CB, and save the model, "
                "before it is quantized."
            )
