"""Builds the signatures and docstrings of the builders from the fields of `ViTSpec`."""

import dataclasses
import difflib
import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from keras_cbvit.models.registry import SIZES
from keras_cbvit.models.spec import ViTSpec

_LEADING_ARGUMENTS = """\
include_top: whether the model ends in a classification head.
weights: `None` for random weights; a tag such as `"imagenet"` (for the named
    sizes); a full name such as `"vit_s.imagenet"` (see `list_weights()`); a
    Hugging Face handle, `"hf://owner/name"` or `"hf://owner/name@revision"`; the
    path of a `.keras`, `.weights.h5`, `.safetensors`, `.pth`, `.pt` or `.bin`
    file, or of a Hugging Face or KerasHub model folder; a state dict; or a live
    model of timm, transformers, KerasHub or this package. Plain ViT weights from
    another library default to `broadcast="cbs"`. Position embeddings are
    resampled to `input_shape`. A `.weights.h5` file requires the arguments that
    its model was built with.
input_tensor: tensor of images to build the model on: a `keras.Input`, or the output
    of other layers; the result is then a `keras.Model` from their inputs.
input_shape: `(height, width, channels)` of the images. Height and width must be
    multiples of `patch_size`, but need not be equal; `None` allows any size.
pooling: `"token"` for the class token, `"avg"` for the mean of the patch tokens,
    `"token_avg"` for their concatenation, `"distilled"` for the mean of DeiT's
    class and distillation heads. Defaults to the pooling of `weights`, else
    `"token"`; without a head, to no pooling.
classes: number of classes. If `weights` have another number of classes, the head
    is reinitialized and everything else is loaded. `class_names` are loaded with
    the head of `weights`; a new head has none.
classifier_activation: activation of the head, `None` for logits. Defaults to that
    of the head of `weights`, else `"softmax"`.
name: name of the model."""
_TRAILING_ARGUMENTS = """\
dtype: dtype or dtype policy of the layers, for instance `"mixed_bfloat16"`.
    Normalization of pixels and predictions use at least float32.
fold_layer_scale: whether to fold the LayerScale factors of `weights` into the
    preceding projections. The outputs stay the same, also with CB or CB_S in
    between, but the model trains differently.
allow_other_function: whether to load the weights of a file into a model that
    computes a different function, such as CB weights into a plain ViT. A new Λ
    that starts at 0 does not change the function and is always allowed."""
_TEMPLATE = """\

Arguments that are not given default to those of `weights`, else of `ViTSpec`.

Args:
{arguments}

Returns:
    A `VisionTransformer`, a functional `keras.Model`. Its inputs are images of
    shape `(batch, height, width, channels)`; its output is `(batch, classes)` with
    a head, else `(batch, hidden_dim)`, or `(batch, tokens, hidden_dim)` without
    pooling.

Raises:
    ValueError: if an argument is invalid, the weights are unknown, or they belong
        to another architecture or function.
    FileNotFoundError: if a file does not exist.
    OSError: if weights cannot be downloaded or do not match their record.
    ImportError: if a package that reads the weights is not installed."""
_SIZE_FIELDS = tuple(SIZES["s"])
# Argument names of timm and Hugging Face that are spelled differently here.
_ALIASES = {
    "num_labels": "classes",
    "image_size": "input_shape",
    "img_size": "input_shape",
    "in_chans": "input_shape",
}


def document_options(builder: Callable[..., Any]) -> Callable[..., Any]:
    """Documents a builder's `**options` by name, from the fields of `ViTSpec`."""
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
    docs = field_docs()
    texts = [
        _LEADING_ARGUMENTS,
        *(f"{name}: {docs[name]}" for name in fields),
        _TRAILING_ARGUMENTS,
    ]
    arguments = textwrap.indent("\n".join(texts), "    ")

    def build(*args, **kwargs):
        _check_keywords(builder.__name__, kwargs, list(signature.parameters))
        given = signature.bind(*args, **kwargs).arguments  # or a TypeError
        # None means logits, so it cannot stand for "not given".
        is_given = "classifier_activation" in given
        return builder(*args, **kwargs, activation_is_given=is_given)

    functools.update_wrapper(build, builder)
    build.__signature__ = signature
    summary = inspect.cleandoc(builder.__doc__ or "")
    build.__doc__ = summary + "\n" + _TEMPLATE.format(arguments=arguments)
    return build


def _check_keywords(function, given, known):
    """Raises a TypeError that suggests a close name, which Python's does not."""
    for name in given:
        if name in known:
            continue
        near = [_ALIASES[name]] if name in _ALIASES else []
        near = near or difflib.get_close_matches(name, known, n=1)
        raise TypeError(
            f"{function}() got an unexpected keyword argument {name!r}"
            + (f"; did you mean {near[0]}?" if near else ".")
        )


@functools.cache
def field_docs() -> dict[str, str]:
    """Returns the description of each field from the docstring of `ViTSpec`."""
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
