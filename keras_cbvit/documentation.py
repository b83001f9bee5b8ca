"""Signatures and docstrings of the builders, made of the fields of `ViTSpec`."""

import dataclasses
import difflib
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
    sizes), a full name such as `"vit_s.imagenet"`, see `list_weights()`, a
    handle of the Hugging Face hub, `"hf://owner/name"` or
    `"hf://owner/name@revision"`, the path of a `.keras`, `.weights.h5`,
    `.safetensors`, `.pth`, `.pt` or `.bin` file or of a folder in the layout
    of Hugging Face or KerasHub, a state dict, or a live model of timm, transformers,
    KerasHub or this package. Weights of a plain ViT of another zoo make a model with
    `broadcast="cbs"` if it is not given. Position embeddings are resampled to
    `input_shape`. A `.weights.h5` file takes the arguments that its model was
    built with.
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
fold_layer_scale: whether the factors of LayerScale in `weights` go into the
    projections before it. The model computes the same without LayerScale, but
    trains in another way. CB and CB_S between the two do not matter.
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
    FileNotFoundError: on the path of a file that does not exist.
    OSError: if weights cannot be downloaded, or are not those of their record.
    ImportError: if a package is missing that reads the weights."""
_SIZE_FIELDS = tuple(SIZES["s"])
# What users of timm and Hugging Face type, where the spelling does not tell.
_OF_OTHER_ZOOS = {
    "num_labels": "classes",
    "image_size": "input_shape",
    "img_size": "input_shape",
    "in_chans": "input_shape",
}


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
        _check_keywords(builder.__name__, kwargs, list(signature.parameters))
        given = signature.bind(*args, **kwargs).arguments  # or a TypeError
        # Its None means logits, so that the builder cannot tell "not given" by it.
        is_given = "classifier_activation" in given
        return builder(*args, **kwargs, activation_is_given=is_given)

    functools.update_wrapper(build, builder)
    build.__signature__ = signature
    summary = inspect.cleandoc(builder.__doc__ or "")
    build.__doc__ = summary + "\n" + _REST.format(arguments=arguments)
    return build


def _check_keywords(function, given, known):
    """Raises a TypeError with a close name, which Python's own does not have."""
    for name in given:
        if name in known:
            continue
        near = [_OF_OTHER_ZOOS[name]] if name in _OF_OTHER_ZOOS else []
        near = near or difflib.get_close_matches(name, known, n=1)
        raise TypeError(
            f"{function}() got an unexpected keyword argument {name!r}"
            + (f"; did you mean {near[0]}?" if near else ".")
        )


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
