"""What every command of the recipes does alike: options in, clear errors out."""

import contextlib
import dataclasses
import importlib
import itertools
import pkgutil
import shlex
import sys

import tyro

import recipes.configs


def parse(command, options_class, description, arguments, default=None):
    """Reads a dataclass from the command line; unknown options are refused.

    The fields of nested dataclasses are options by their own name.
    """
    extra = {} if default is None else {"default": default}
    return tyro.cli(
        tyro.conf.OmitArgPrefixes[options_class],
        prog=f"python -m {command}",
        description=description,
        args=arguments,
        **extra,
    )


def config_names():
    """The configs there are."""
    return [module.name for module in pkgutil.iter_modules(recipes.configs.__path__)]


def load_config(name):
    """The module of a config; its function `config` gives the experiment."""
    return importlib.import_module(f"{recipes.configs.__name__}.{name}")


def experiment_of(command, description, arguments):
    """An experiment as the command line `CONFIG [--option value ...]` asks for it.

    Args:
        command: the module that is run.
        description: its docstring, which is its help.
        arguments: of the command line; `None` for those of this program.

    Returns:
        The experiment and the whole command as one types it; `None` if only help was
        asked for.
    """
    from recipes.network import without_defaults

    arguments = sys.argv[1:] if arguments is None else arguments
    names = config_names()
    known = ", ".join(names)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{description}\nConfigs: {known}")
        return None
    name, *options = arguments
    # Whoever types None means the plain ViT, not "not given".
    options = [
        "none" if pair == ("--broadcast", "None") else pair[1]
        for pair in itertools.pairwise(["", *options])
    ]
    if name not in names:
        sys.exit(f"There is no config {name!r}; there are {known}.")
    config = load_config(name)
    default = config.config()
    kind = type(default)
    experiment = parse(f"{command} {name}", kind, config.__doc__, options, default)
    network = without_defaults(experiment.network, default.network)
    experiment = dataclasses.replace(experiment, network=network)
    return experiment, shlex.join(["python", "-m", command, *arguments])


@contextlib.contextmanager
def report_errors():
    """Ends the program with the sentence of an error that the user can mend."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        text = " ".join([str(error), *getattr(error, "__notes__", ())])
        # On a line of its own, also behind a progress bar.
        sys.exit(f"\n{type(error).__name__}: {text}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")
