"""All that is public is annotated; `nox -s lint` checks that the types go together."""

import importlib
import inspect
import pkgutil
import typing

import pytest

import keras_cbvit


def names_of_modules():
    found = pkgutil.walk_packages(keras_cbvit.__path__, "keras_cbvit.")
    return ["keras_cbvit", *(module.name for module in found)]


def functions_of(owner, module):
    """The public functions and methods of a module or class, by their names."""
    for name, thing in vars(owner).items():
        if isinstance(thing, property):
            thing = thing.fget
        elif isinstance(thing, classmethod | staticmethod):
            thing = thing.__func__
        is_public = not name.startswith("_") or name == "__init__"
        if not is_public or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(thing):
            yield from functions_of(thing, module)
        elif inspect.isfunction(inspect.unwrap(thing)):
            yield f"{owner.__name__}.{name}", thing


def not_annotated(function):
    """The parameters of a function without annotation, and whether it has a return."""
    signature = inspect.signature(function)
    missing = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.annotation is parameter.empty and name not in ("self", "cls")
    ]
    is_open = signature.return_annotation is signature.empty
    if is_open and function.__name__ != "__init__":
        missing.append("return")
    return missing


@pytest.mark.parametrize("name", names_of_modules())
def test_public_functions_are_annotated(name):
    module = importlib.import_module(name)
    functions = dict(functions_of(module, module))
    missing = {each: not_annotated(thing) for each, thing in functions.items()}
    assert not {each: names for each, names in missing.items() if names}


@pytest.mark.parametrize("name", names_of_modules())
def test_annotations_can_be_evaluated(name):
    module = importlib.import_module(name)
    for _, function in functions_of(module, module):
        typing.get_type_hints(function)


def test_what_is_not_annotated_is_found():
    class Thing:
        def method(self, right: int, wrong) -> None: ...

        @classmethod
        def open(cls, wrong=None): ...

    module = inspect.getmodule(Thing)
    assert {
        name.partition(".")[2]: not_annotated(function)
        for name, function in functions_of(Thing, module)
    } == {"method": ["wrong"], "open": ["wrong", "return"]}
