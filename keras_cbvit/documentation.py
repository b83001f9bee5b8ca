"""Signatures and docstrings of the builders, made of the fields of `ViTSpec`."""

import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from keras_cbvit.models.registry import SIZES
from keras_cbvit.models.spec import ViTSpec

_OWN = """\
include_top: whether the model ends in a classification head.
weights: `None` for random weights, a tag such as `"imagenet"` (for the
    sizes), a full name such as `"vitcb_s.imagenet"`, or the path of a
    `.keras` or `.weights.h5` file of such a model. `list_weights()` lists
    the names. Position embeddings are resampled to `input_shape`. A
    `.weights.h5` file takes the arguments that its model was built with.
input_tensor: the tensor of images that the model is built on, a `keras.Input`, or
    what other layers give: then a `keras.Model` of theirs that ends in this model.
input_shape: `(height, width, channels)` of the images. Height and width
    are multiples of `patch_size` and need not be equal; `None` for any.
pooling: `"token"` for the class token, `"avg"` for the mean of the patches'
    tokens, `"token_avg"` for the two side by side, `"distilled"` for the mean of
    DeiT's class and distillation token, with a head each; if not given, all tokens
    without a head, else that of the weights, or `"token"`.
classes: number of classes. Given with `weights` of another number of
    classes, the head is reinitialized and everything else is loaded. The head
    of `weights` brings its `class_names` along; a new one has none.
classifier_activation: activation of the head, `None` for logits; if not given,
    that of the head of `weights`, or `"softmax"`.
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


def documented(builder: Callable[..., Any]) -> Callable[..., Any]:
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
    options = [
        inspect.Parameter(n, keyword, default=None, annotation=Any) for n in fields
    ]
    signature = signature.replace(parameters=parameters[:8] + options + parameters[8:])
    words = field_docs()
    texts = [_OWN, *(f"{name}: {words[name]}" for name in fields), _LAST]
    arguments = textwrap.indent("\n".join(texts), "    ")

    def build(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments  # or a TypeError
        # Its None means logits, so that the builder cannot tell "not given" by it.
        is_given = "classifier_activation" in given
        return builder(*args, **kwargs, activation_is_given=is_given)

    functools.update_wrapper(build, builder)
    build.__signature__ = signature
    summary = inspect.cleandoc(builder.__doc__ or "")
    build.__doc__ = summary + "\n" + _REST.format(arguments=arguments)
    return build


@functools.cache
def field_docs() -> dict[str, str]:
    """What the docstring of `ViTSpec` says of each field."""
    text = inspect.cleandoc(ViTSpec.__doc__ or "")
    lines = text.partition("Args:\n")[2].partition("\n\nRaises:")[0].splitlines()
    found, name = {}, None
    for line in textwrap.dedent("\n".join(lines)).splitlines():
        if not line.startswith(" "):
            name, _, line = line.partition(": ")
            found[name] = line
        else:
            found[name] += f"\n{line}"
    return found
