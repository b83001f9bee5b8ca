"""What every command of the recipes does alike: options in, clear errors out."""

import contextlib
import dataclasses
import importlib
import itertools
import pkgutil
import shlex
import sys
import warnings

import tyro
from PIL import Image

from . import configs


def program(command):
    """How a command is called: from a checkout, or of the installed package.

    Args:
        command: its name, for instance `"train"`.
    """
    is_checkout = __package__ == "recipes"
    return f"python -m recipes.{command}" if is_checkout else f"keras-cbvit {command}"


def parse(command, options_class, description, arguments, default=None):
    """Reads a dataclass from the command line; unknown options are refused.

    The fields of nested dataclasses are options by their own name.

    Args:
        command: the name of the command, and what comes before the options.
        options_class: the dataclass.
        description: its help.
        arguments: of the command line; `None` for those of this program.
        default: the values of what is not given, if not those of the class.
    """
    extra = {} if default is None else {"default": default}
    return tyro.cli(
        tyro.conf.OmitArgPrefixes[options_class],
        prog=program(command),
        description=_as_called(description),
        args=arguments,
        **extra,
    )


def _as_called(description):
    """A help text with its commands as they are called here."""
    return description.replace("python -m recipes.", program(""))


def config_names():
    """The configs there are."""
    return [module.name for module in pkgutil.iter_modules(configs.__path__)]


def load_config(name):
    """The module of a config; its function `config` gives the experiment."""
    return importlib.import_module(f"{configs.__name__}.{name}")


def experiment_of(command, description, arguments):
    """An experiment as the command line `CONFIG [--option value ...]` asks for it.

    Args:
        command: the name of the command.
        description: its docstring, which is its help.
        arguments: of the command line; `None` for those of this program.

    Returns:
        The experiment and the whole command as one types it; `None` if only help was
        asked for.
    """
    from .network import Network, without_defaults

    arguments = sys.argv[1:] if arguments is None else arguments
    names = config_names()
    known = ", ".join(names)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{_as_called(description)}\nConfigs: {known}")
        return None
    name, *options = arguments
    # On the command line None means the plain ViT, not "not given".
    options = [
        "none" if (before, each) == ("--broadcast", "None") else each
        for before, each in itertools.pairwise(["", *options])
    ]
    options = [o.replace("--broadcast=None", "--broadcast=none") for o in options]
    if name not in names:
        sys.exit(f"There is no config {name!r}; there are {known}.")
    config = load_config(name)
    default = config.config()
    program_and_config, kind = f"{command} {name}", type(default)
    experiment = parse(program_and_config, kind, config.__doc__, options, default)
    # Once more, to tell what is typed from what the config says.
    bare = dataclasses.replace(default, network=Network())
    asked = parse(program_and_config, kind, config.__doc__, options, bare).network
    network = without_defaults(experiment.network, default.network, asked)
    experiment = dataclasses.replace(experiment, network=network)
    return experiment, f"{program(command)} {shlex.join(arguments)}"


MENDABLE = (ValueError, OSError, FloatingPointError, ImportError)
"""Errors that the user can mend."""


def sentence(error):
    """What an error says, with its notes."""
    text = " ".join([str(error), *getattr(error, "__notes__", ())])
    return f"{type(error).__name__}: {text}"


@contextlib.contextmanager
def report_errors():
    """Ends the program with the sentence of an error that the user can mend."""
    # An image of too many pixels is refused by its name.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    try:
        yield
    except MENDABLE as error:
        # On a line of its own, also behind a progress bar.
        sys.exit(f"\n{sentence(error)}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")
