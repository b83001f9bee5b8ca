"""Validates arguments: each function returns a Python value or raises a ValueError.

Scalars of NumPy and the backends, including arrays and tensors without axes, are
converted to Python's, so that they can be stored in a configuration.
"""

import collections.abc
import dataclasses
import functools
import math
import operator
import os
import re
import reprlib
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import keras

from keras_cbvit.annotations import Shape

# More channels, classes or pixels along a side than fit into memory.
LARGEST = 10**7

_short = reprlib.Repr()
_short.maxlist = _short.maxtuple = _short.maxdict = 12
_short.maxstring = _short.maxother = 400


def format_value(value: Any, length: int = 80) -> str:
    """Formats a value for messages, on one line of at most `length` characters."""
    try:
        text = " ".join(_short.repr(value).split())
    except Exception:  # an integer with more digits than Python prints
        text = f"<{type(value).__name__}>"
    return text if len(text) <= length else f"{text[: length - 1]}…"


def refuse(argument: str, value: Any, why: str) -> NoReturn:
    """Raises a ValueError that starts with `argument=value`."""
    raise ValueError(f"{argument}={format_value(value)} {why}")


def whole_number(argument: str, value: Any, least: int = 1, most: int = LARGEST) -> int:
    """Validates an int from `least` to `most`, not a bool."""
    number = _scalar(value, operator.index, "int")
    if number is None or not least <= number:
        refuse(argument, value, f"must be a whole number of at least {least}.")
    if number > most:
        refuse(argument, value, f"must be a whole number of at most {most}.")
    return number


def two_whole_numbers(
    argument: str, value: Any, least: int = 1, most: int = LARGEST
) -> tuple[int, int]:
    """Validates two ints from `least` to `most`, such as height and width."""
    if (found := items(value, most=2)) is None or len(found) != 2:
        refuse(argument, value, "must be two whole numbers, for instance (512, 512).")
    first, second = (whole_number(argument, each, least, most) for each in found)
    return first, second


def number(argument: str, value: Any) -> int | float:
    """Validates a finite int or float, not a bool."""
    found = _number(value)
    if found is None:
        refuse(argument, value, "must be a number.")
    if isinstance(found, float) and not math.isfinite(found):
        refuse(argument, value, "must be a finite number.")
    return found


def number_between(
    lowest: float, highest: float = math.inf
) -> Callable[[str, Any], int | float]:
    """Returns a function that validates a number from `lowest` to `highest`."""

    def check(argument, value):
        found = number(argument, value)
        if not lowest <= found <= highest:
            upwards, both = f"at least {lowest}", f"between {lowest} and {highest}"
            wanted = upwards if highest == math.inf else both
            refuse(argument, value, f"must be {wanted}.")
        return found

    return check


def norm_epsilon(argument: str, value: Any) -> int | float:
    """Validates the number that a norm adds to the variance."""
    return number_between(1e-12, 1)(argument, value)


def drop_rate(argument: str, value: Any) -> int | float:
    """Validates a number of at least 0 and less than 1."""
    found = _number(value)
    if found is None:
        refuse(argument, value, "must be a number.")
    if not 0 <= found < 1:
        refuse(argument, value, "must be at least 0 and less than 1.")
    return found


def flag(argument: str, value: Any) -> bool:
    """Validates a bool, not 0 or 1."""
    found = value if isinstance(value, bool) else _scalar(value, bool, "bool")
    if found is None:
        refuse(argument, value, "is unknown; use one of True, False.")
    return found


def choice(argument: str, value: Any, choices: Sequence[str | None]) -> str | None:
    """Validates one of several choices, which are strings or None."""
    for each in choices:
        if value is each or (isinstance(value, str) and value == each):
            return each
    known = ", ".join(map(repr, choices))
    return refuse(argument, value, f"is unknown; use one of {known}.")


def items(value: Any, most: int = LARGEST) -> list | None:
    """Returns the items of a sequence or array of at most `most` items, else `None`."""
    unordered = str | bytes | bytearray | collections.abc.Mapping | collections.abc.Set
    try:
        if isinstance(value, unordered) or len(value) > most:
            return None
        return list(value)
    except Exception:  # not a sequence
        return None


def check_fields(instance: Any) -> None:
    """Validates all fields of a frozen dataclass in place.

    The annotation of a field defines its values: `Literal` has choices, `bool` is a
    flag, and the last item of `Annotated[int, whole_number]` is a validation function
    of this module. A field may be `None` if its annotation includes `None`.

    Raises:
        ValueError: if a field is not valid.
    """
    for field in dataclasses.fields(instance):
        value = field_value(type(instance), field.name, getattr(instance, field.name))
        object.__setattr__(instance, field.name, value)


def field_value(kind: type, name: str, value: Any) -> Any:
    """Validates the value of one field of a dataclass, see `check_fields`.

    Raises:
        ValueError: if the value is not valid.
    """
    return _check_field(name, value, _hints(kind)[name])


@functools.cache
def _hints(kind):
    return typing.get_type_hints(kind, include_extras=True)


def _check_field(name, value, hint):
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union) and type(None) in parts:
        if value is None:
            return None
        parts = tuple(part for part in parts if part is not type(None))
        return _check_field(name, value, parts[0]) if len(parts) == 1 else value
    if origin is typing.Annotated:
        return parts[-1](name, value)
    if origin is typing.Literal:
        return choice(name, value, parts)
    return flag(name, value) if hint is bool else value


def indices_of_blocks(argument: str, value: Any, depth: int) -> list[int]:
    """Validates one or more ascending indices of blocks, counted from 0."""
    try:
        found = [whole_number(argument, i, 0) for i in items(value, most=depth)]
    except (TypeError, ValueError):
        found = []
    if not found or sorted({*found} & {*range(depth)}) != found:
        refuse(
            argument,
            value,
            f"must be ascending indices of the {depth} blocks, 0 to {depth - 1}.",
        )
    return found


def name_of_model(argument: str, value: Any) -> str:
    """Validates a string that can be the name of a model on every backend."""
    is_name = isinstance(value, str) and len(value) <= 255
    # The names that TensorFlow allows.
    if not is_name or not re.fullmatch(r"[A-Za-z0-9.][\w.>-]*", value, re.ASCII):
        refuse(
            argument,
            value,
            "must be a string of letters, digits and _ . > - that starts with a letter "
            "or digit.",
        )
    return str(value)


def layer(argument: str, value: Any) -> keras.layers.Layer | None:
    """Validates a Keras layer or `None`."""
    if not isinstance(value, keras.layers.Layer | None):
        refuse(argument, value, "must be a keras.layers.Layer or None.")
    return value


def keras_activation(argument: str, value: Any) -> Any:
    """Validates an activation and returns its serialized form, such as its name."""
    if value is None:
        return None
    try:
        if getattr(value, "__name__", None) == "<lambda>":
            raise ValueError
        found = keras.activations.serialize(keras.activations.get(value))
        keras.activations.get(found)
    except Exception:
        refuse(
            argument,
            value,
            "must be None, the name of one of keras.activations, or a function "
            "registered with keras.saving.register_keras_serializable.",
        )
    return found


def tensor_shape(tensor: Any, input_shape: Any) -> tuple[int | None, ...]:
    """Returns the shape of `input_tensor` without the batch axis.

    Raises:
        ValueError: if it is not a symbolic tensor, or `input_shape` is another shape.
    """
    if not keras.utils.is_keras_tensor(tensor):
        refuse(
            "input_tensor", tensor, "must be a symbolic tensor, such as a keras.Input."
        )
    shape = tuple(tensor.shape[1:])
    if input_shape is not None and tuple(items(input_shape) or ()) != shape:
        refuse(
            "input_shape",
            input_shape,
            f"differs from that of input_tensor, {shape}; remove one of the two.",
        )
    return shape


def keras_object(argument: str, value: Any, module: Any) -> Any:
    """Validates an object of a Keras module, such as `keras.initializers`."""
    try:
        found = module.get(value)
        if found is not None:
            module.get(module.serialize(found))  # it must be serializable
        return found
    except Exception:
        kind = module.__name__.rpartition(".")[2]
        return refuse(argument, value, f"is not one of keras.{kind}.")


def dtype_policy(argument: str, value: Any) -> keras.dtype_policies.DTypePolicy:
    """Validates a floating-point dtype policy; `None` is Keras's global policy."""
    if value is None:
        value = keras.config.dtype_policy()
    try:
        policy = keras.dtype_policies.get(value)
        dtypes = policy.compute_dtype, policy.variable_dtype
    except Exception:
        dtypes = ()
    are_floats = dtypes and all(map(keras.backend.is_float_dtype, dtypes))
    if not are_floats or isinstance(policy, keras.dtype_policies.QuantizedDTypePolicy):
        refuse(
            argument,
            value,
            "is not a floating-point dtype or dtype policy; use for instance 'float32' "
            "or 'mixed_bfloat16'.",
        )
    return policy


def check_shape(layer: keras.layers.Layer, shape: Shape) -> None:
    """Raises a ValueError unless a shape matches a layer's `input_spec`.

    For `compute_output_shape`; Keras checks inputs when a layer is called.
    """
    spec = layer.input_spec
    fits = len(shape) == spec.ndim if spec.ndim else len(shape) >= spec.min_ndim
    sizes = (spec.axes or {}).items()
    if not fits or any(shape[axis] not in (None, size) for axis, size in sizes if size):
        wanted = f"{spec.ndim} axes" if spec.ndim else f"{spec.min_ndim} axes or more"
        wanted += "".join(f", {size} along axis {axis}" for axis, size in sizes if size)
        raise ValueError(
            f"{layer.name} takes inputs of {wanted}, not of shape "
            f"{format_value(shape)}."
        )


def fixed_channels(layer: keras.layers.Layer, shape: Shape) -> int:
    """Returns the channels of a layer's inputs and fixes them in its `input_spec`."""
    check_shape(layer, shape)
    channels, spec = shape[-1], layer.input_spec
    if channels is None:
        raise ValueError(
            f"{layer.name} requires a known number of channels, but the inputs have "
            f"shape {format_value(tuple(shape))}."
        )
    layer.input_spec = keras.layers.InputSpec(
        ndim=spec.ndim, min_ndim=spec.min_ndim, axes={-1: channels}
    )
    return channels


def check_maps(
    layer: keras.layers.Layer, shapes: Any, number: int | None = None
) -> None:
    """Raises a ValueError unless the inputs of a layer are a list of feature maps.

    Args:
        layer: the layer, for its name.
        shapes: the shapes of the inputs, which must have 4 axes each.
        number: the required number of maps. Defaults to one or more.
    """
    are_maps = all(isinstance(s, tuple | list) and len(s) == 4 for s in shapes)
    if not (are_maps and len(shapes) and len(shapes) == (number or len(shapes))):
        raise ValueError(
            f"{layer.name} takes a list of {number or 'one or more'} feature maps of "
            f"shape (batch, height, width, channels), not {format_value(shapes)}."
        )


def check_memory(what: str, weights: float, dtype: str = "float32") -> None:
    """Raises a ValueError if weights do not fit into this machine's memory.

    Args:
        what: the cause for the message, such as `"depth=1000"`.
        weights: number of weights.
        dtype: dtype of the weights.
    """
    size = weights * (8 if dtype == "float64" else 2 if "16" in dtype else 4)
    if size > (memory := _memory()):
        raise ValueError(
            f"{what} would take {weights:.3g} weights ({size / 1e9:.3g} GB), but this "
            f"machine has {memory / 1e9:.3g} GB of memory."
        )


def _memory():
    """Returns the bytes of this machine's memory, or 4 TiB if unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**42


def _number(value):
    """Returns an int or float, also infinite or NaN; `None` for other values."""
    whole = _scalar(value, operator.index, "int")
    return _scalar(value, float, "float") if whole is None else whole


def _scalar(value, convert, kind):
    """Converts a scalar of a kind to Python's type; `None` for other values."""
    if isinstance(value, bool | str | bytes | bytearray):
        return None
    dtype = getattr(value, "dtype", None)
    if dtype is None and kind == "bool":
        return None
    try:
        if dtype is not None and (len(value.shape) or kind not in str(dtype)):
            return None
        return convert(value)
    except Exception:  # not a number
        return None
