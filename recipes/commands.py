"""Shared by all commands of the recipes: option parsing and error reporting."""

import contextlib
import dataclasses
import importlib
import itertools
import pkgutil
import shlex
import sys
import types
import typing
import warnings

import docstring_parser
import tyro
from PIL import Image

from . import configs


def program(command):
    """Returns how to call a command, in a checkout or the installed package.

    Args:
        command: name of the command, for instance `"train"`.
    """
    is_checkout = __package__ == "recipes"
    return f"python -m recipes.{command}" if is_checkout else f"keras-cbvit {command}"


def parse(command, options_class, description, arguments, default=None):
    """Parses the command line into a dataclass; unknown options are errors.

    Fields of nested dataclasses become options without a prefix.

    Args:
        command: name of the command, with any arguments that precede the options.
        options_class: the dataclass.
        description: help text of the command.
        arguments: command-line arguments; `None` for `sys.argv`.
        default: instance with the default values; `None` for the class's defaults.
    """
    _set_help(options_class, default)
    extra = {} if default is None else {"default": default}
    return tyro.cli(
        tyro.conf.OmitArgPrefixes[options_class],
        prog=program(command),
        description=_adapt_commands(description),
        args=arguments,
        **extra,
    )


def _set_help(options_class, default):
    """Sets each field's help to its docstring, whose line breaks tyro would keep."""
    for each in typing.get_args(options_class) or (options_class,):
        docs = {}
        for base in filter(dataclasses.is_dataclass, reversed(each.__mro__)):
            for param in docstring_parser.parse_from_object(base).params:
                docs[param.arg_name] = " ".join((param.description or "").split())
        for field in dataclasses.fields(each):
            if field.name in docs:
                field.metadata = types.MappingProxyType({"help": docs[field.name]})
            value = getattr(default, field.name, field.default)
            if dataclasses.is_dataclass(value):
                _set_help(type(value), value)


def _adapt_commands(description):
    """Replaces the commands in a help text by the form that works here."""
    return description.replace("python -m recipes.", program(""))


def config_names():
    """Returns the names of all configs."""
    return [module.name for module in pkgutil.iter_modules(configs.__path__)]


def load_config(name):
    """Imports the module of a config; its function `config` builds the experiment."""
    return importlib.import_module(f"{configs.__name__}.{name}")


def parse_experiment(command, description, arguments):
    """Builds an experiment from the command line `CONFIG [--option value ...]`.

    Args:
        command: name of the command.
        description: help text of the command.
        arguments: command-line arguments; `None` for `sys.argv`.

    Returns:
        The experiment and the full command line as text; `None` after printing help.
    """
    from .network import Network, without_defaults

    arguments = sys.argv[1:] if arguments is None else arguments
    names = config_names()
    known = ", ".join(names)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{_adapt_commands(description)}\nConfigs: {known}")
        return None
    name, *options = arguments
    # On the command line, --broadcast None selects the plain ViT, not the default.
    options = [
        "none" if (before, each) == ("--broadcast", "None") else each
        for before, each in itertools.pairwise(["", *options])
    ]
    options = [o.replace("--broadcast=None", "--broadcast=none") for o in options]
    if name not in names:
        sys.exit(f"Unknown config {name!r}; use one of {known}.")
    config = load_config(name)
    default = config.config()
    program_and_config, kind = f"{command} {name}", type(default)
    experiment = parse(program_and_config, kind, config.__doc__, options, default)
    # Parse again to distinguish options of the command line from the config's values.
    bare = dataclasses.replace(default, network=Network())
    asked = parse(program_and_config, kind, config.__doc__, options, bare).network
    network = without_defaults(experiment.network, default.network, asked)
    experiment = dataclasses.replace(experiment, network=network)
    return experiment, f"{program(command)} {shlex.join(arguments)}"


USER_ERRORS = (ValueError, OSError, FloatingPointError, ImportError)
"""Errors that the user can fix."""


def format_error(error):
    """Formats an error's type, message and notes in one line."""
    text = " ".join([str(error), *getattr(error, "__notes__", ())])
    return f"{type(error).__name__}: {text}"


@contextlib.contextmanager
def report_errors():
    """Exits with a message instead of a traceback on errors that the user can fix."""
    # Decoding raises an error that names an image with too many pixels.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    try:
        yield
    except USER_ERRORS as error:
        # The newline ends the line of a progress bar.
        sys.exit(f"\n{format_error(error)}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")
