"""What arguments may be: each function gives Python's own value, or a ValueError.

NumPy's numbers and those of the backends, arrays and tensors of one number included,
are taken like Python's, so that a configuration can keep them.
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

# More channels, classes or pixels along a side than any layer holds in memory.
LARGEST = 10**7

_short = reprlib.Repr()
_short.maxlist = _short.maxtuple = _short.maxdict = 12
_short.maxstring = _short.maxother = 400


def shown(value: Any, length: int = 80) -> str:
    """A value as messages have it: on one line, of so many characters at most."""
    try:
        text = " ".join(_short.repr(value).split())
    except Exception:  # an integer of more digits than Python prints
        text = f"<{type(value).__name__}>"
    return text if len(text) <= length else f"{text[: length - 1]}…"


def refuse(argument: str, value: Any, why: str) -> NoReturn:
    """Raises a ValueError that begins with `argument=value`."""
    raise ValueError(f"{argument}={shown(value)} {why}")


def whole_number(argument: str, value: Any, least: int = 1, most: int = LARGEST) -> int:
    """An int from `least` to `most`; bools are none."""
    number = _scalar(value, operator.index, "int")
    if number is None or not least <= number:
        refuse(argument, value, f"must be a whole number of at least {least}.")
    if number > most:
        refuse(argument, value, f"must be a whole number of at most {most}.")
    return number


def two_whole_numbers(
    argument: str, value: Any, least: int = 1, most: int = LARGEST
) -> tuple[int, int]:
    """Two ints from `least` to `most`, such as height and width."""
    if (found := items(value, most=2)) is None or len(found) != 2:
        refuse(argument, value, "must be two whole numbers, for instance (512, 512).")
    first, second = (whole_number(argument, each, least, most) for each in found)
    return first, second


def number(argument: str, value: Any) -> int | float:
    """A finite int or float; bools are none."""
    found = _number(value)
    if found is None:
        refuse(argument, value, "must be a number.")
    if isinstance(found, float) and not math.isfinite(found):
        refuse(argument, value, "must be a finite number.")
    return found


def number_between(
    lowest: float, highest: float = math.inf
) -> Callable[[str, Any], int | float]:
    """A check for a number from `lowest` to `highest`."""

    def check(argument, value):
        found = number(argument, value)
        if not lowest <= found <= highest:
            upwards, both = f"at least {lowest}", f"between {lowest} and {highest}"
            wanted = upwards if highest == math.inf else both
            refuse(argument, value, f"must be {wanted}.")
        return found

    return check


def norm_epsilon(argument: str, value: Any) -> int | float:
    """What a norm adds to a variance: enough not to divide by 0, and not for more."""
    return number_between(1e-12, 1)(argument, value)


def drop_rate(argument: str, value: Any) -> int | float:
    """A number from 0 to less than 1."""
    found = _number(value)
    if found is None:
        refuse(argument, value, "must be a number.")
    if not 0 <= found < 1:
        refuse(argument, value, "must be at least 0 and less than 1.")
    return found


def flag(argument: str, value: Any) -> bool:
    """A bool; 0 and 1 are none."""
    found = value if isinstance(value, bool) else _scalar(value, bool, "bool")
    if found is None:
        refuse(argument, value, "is unknown; use one of True, False.")
    return found


def choice(argument: str, value: Any, choices: Sequence[str | None]) -> str | None:
    """One of the choices, each a string or None."""
    for each in choices:
        if value is each or (isinstance(value, str) and value == each):
            return each
    known = ", ".join(map(repr, choices))
    return refuse(argument, value, f"is unknown; use one of {known}.")


def items(value: Any, most: int = LARGEST) -> list | None:
    """The items of a sequence or array of one axis; `None` if it is none or longer."""
    unordered = str | bytes | bytearray | collections.abc.Mapping | collections.abc.Set
    try:
        if isinstance(value, unordered) or len(value) > most:
            return None
        return list(value)
    except Exception:  # whatever is no sequence
        return None


def check_fields(instance: Any) -> None:
    """Replaces every field of a frozen dataclass by its checked value.

    The annotation of a field says what it may be: `Literal` has the choices, `bool` is
    a flag, and of `Annotated[int, whole_number]` the last item is the function of this
    module that checks it. A field may be `None` if its annotation says so.

    Raises:
        ValueError: on the first field that cannot be, by name.
    """
    for field in dataclasses.fields(instance):
        value = field_value(type(instance), field.name, getattr(instance, field.name))
        object.__setattr__(instance, field.name, value)


def field_value(kind: type, name: str, value: Any) -> Any:
    """The checked value of one field of a dataclass, see `check_fields`.

    Raises:
        ValueError: if it cannot be.
    """
    return _checked(name, value, _hints(kind)[name])


@functools.cache
def _hints(kind):
    return typing.get_type_hints(kind, include_extras=True)


def _checked(name, value, hint):
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union) and type(None) in parts:
        if value is None:
            return None
        parts = tuple(part for part in parts if part is not type(None))
        return _checked(name, value, parts[0]) if len(parts) == 1 else value
    if origin is typing.Annotated:
        return parts[-1](name, value)
    if origin is typing.Literal:
        return choice(name, value, parts)
    return flag(name, value) if hint is bool else value


def indices_of_blocks(argument: str, value: Any, depth: int) -> list[int]:
    """Ascending indices of some of a model's blocks, counted from 0, one at least."""
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
    """A string that can be the name of a model on every backend."""
    is_name = isinstance(value, str) and len(value) <= 255
    # TensorFlow takes no others.
    if not is_name or not re.fullmatch(r"[A-Za-z0-9.][\w.>-]*", value, re.ASCII):
        refuse(
            argument,
            value,
            "must be a string of letters, digits and _ . > - that begins with a letter "
            "or digit.",
        )
    return str(value)


def layer(argument: str, value: Any) -> keras.layers.Layer | None:
    """A Keras layer, or `None`."""
    if not isinstance(value, keras.layers.Layer | None):
        refuse(argument, value, "must be a keras.layers.Layer or None.")
    return value


def keras_activation(argument: str, value: Any) -> Any:
    """An activation function as configurations have it: its name, or `None`."""
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
            "must be None, the name of one of keras.activations, or a function that "
            "keras.saving.register_keras_serializable has registered.",
        )
    return found


def tensor_shape(tensor: Any, input_shape: Any) -> tuple[int | None, ...]:
    """The shape of `input_tensor` without its batch, which `input_shape` may say, too.

    Raises:
        ValueError: if it is no symbolic tensor, or of another shape.
    """
    if not keras.utils.is_keras_tensor(tensor):
        refuse("input_tensor", tensor, "must be a symbolic tensor, as of keras.Input.")
    shape = tuple(tensor.shape[1:])
    if input_shape is not None and tuple(items(input_shape) or ()) != shape:
        refuse(
            "input_shape",
            input_shape,
            f"is not that of input_tensor, {shape}; leave out one of the two.",
        )
    return shape


def of_keras(argument: str, value: Any, module: Any) -> Any:
    """What the `get` of a module of Keras gives, such as `keras.initializers`."""
    try:
        found = module.get(value)
        if found is not None:
            module.get(module.serialize(found))  # as the configuration will have it
        return found
    except Exception:
        kind = module.__name__.rpartition(".")[2]
        return refuse(argument, value, f"is not one of keras.{kind}.")


def dtype_policy(argument: str, value: Any) -> keras.dtype_policies.DTypePolicy:
    """The dtype policy of floating-point numbers; Keras's global one for `None`."""
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
            "is no dtype or dtype policy of floating-point numbers; use for instance "
            "'float32' or 'mixed_bfloat16'.",
        )
    return policy


def check_shape(layer: keras.layers.Layer, shape: Shape) -> None:
    """Raises a ValueError unless a layer takes inputs of a shape, by its `input_spec`.

    As Keras does it when a layer is called, for `compute_output_shape`.
    """
    spec = layer.input_spec
    fits = len(shape) == spec.ndim if spec.ndim else len(shape) >= spec.min_ndim
    sizes = (spec.axes or {}).items()
    if not fits or any(shape[axis] not in (None, size) for axis, size in sizes if size):
        wanted = f"{spec.ndim} axes" if spec.ndim else f"{spec.min_ndim} axes or more"
        wanted += "".join(f", {size} along axis {axis}" for axis, size in sizes if size)
        raise ValueError(
            f"{layer.name} takes inputs of {wanted}, not of shape {shown(shape)}."
        )


def fixed_channels(layer: keras.layers.Layer, shape: Shape) -> int:
    """The channels of the inputs that a layer is built for; it takes no others then."""
    check_shape(layer, shape)
    channels, spec = shape[-1], layer.input_spec
    if channels is None:
        raise ValueError(
            f"{layer.name} has weights for each channel, but inputs of shape "
            f"{shown(tuple(shape))} have an unknown number of channels."
        )
    layer.input_spec = keras.layers.InputSpec(
        ndim=spec.ndim, min_ndim=spec.min_ndim, axes={-1: channels}
    )
    return channels


def check_maps(
    layer: keras.layers.Layer, shapes: Any, number: int | None = None
) -> None:
    """Raises a ValueError unless a layer is given a list of feature maps.

    Args:
        layer: the layer, for its name.
        shapes: what should be a list of shapes of 4 axes each.
        number: how many there must be; one or more if not given.
    """
    are_maps = all(isinstance(s, tuple | list) and len(s) == 4 for s in shapes)
    if not (are_maps and len(shapes) and len(shapes) == (number or len(shapes))):
        raise ValueError(
            f"{layer.name} takes a list of {number or 'one or more'} feature maps of "
            f"shape (batch, height, width, channels), not {shown(shapes)}."
        )


def check_memory(what: str, weights: float, dtype: str = "float32") -> None:
    """Raises a ValueError if so many weights do not fit into this machine's memory.

    Args:
        what: what makes so many, for the message: `"depth=1000"`.
        weights: how many there are.
        dtype: the dtype of each.
    """
    size = weights * (8 if dtype == "float64" else 2 if "16" in dtype else 4)
    if size > (memory := _memory()):
        raise ValueError(
            f"{what} would take {weights:.3g} weights, {size / 1e9:.3g} GB; this "
            f"machine has {memory / 1e9:.3g} GB of memory."
        )


def _memory():
    """Bytes of this machine's memory; where Python cannot tell, what any has."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**42


def _number(value):
    """An int or float, which may be infinite or NaN; `None` if it is neither."""
    whole = _scalar(value, operator.index, "int")
    return _scalar(value, float, "float") if whole is None else whole


def _scalar(value, convert, kind):
    """A scalar of a kind as Python's own; `None` if it is of another kind."""
    if isinstance(value, bool | str | bytes | bytearray):
        return None
    dtype = getattr(value, "dtype", None)
    if dtype is None and kind == "bool":
        return None
    try:
        if dtype is not None and (len(value.shape) or kind not in str(dtype)):
            return None
        return convert(value)
    except Exception:  # whatever is no number
        return None
