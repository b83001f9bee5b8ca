"""What every command of the recipes does alike: options in, clear errors out."""

import contextlib
import dataclasses
import importlib
import itertools
import pkgutil
import shlex
import sys


def parse(command, options_class, description, arguments, default=None):
    """Reads a dataclass from the command line; unknown options are refused.

    The fields of nested dataclasses are options by their own name.
    """
    import tyro

    extra = {} if default is None else {"default": default}
    return tyro.cli(
        tyro.conf.OmitArgPrefixes[options_class],
        prog=f"python -m {command}",
        description=description,
        args=arguments,
        **extra,
    )


def config_names_in(package):
    """The configs in a package, modules with a function `config()`."""
    modules = pkgutil.iter_modules(package.__path__)
    return [module.name for module in modules if not module.ispkg]


def configured(command, description, package, options_class, arguments):
    """An experiment as the command line `CONFIG [--option value ...]` asks for it.

    Args:
        command: the module that is run.
        description: its docstring, which is its help.
        package: where the configs are.
        options_class: the dataclass that they build.
        arguments: of the command line; `None` for those of this program.

    Returns:
        The experiment and the whole command as one types it; `None` if only help was
        asked for.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    names = config_names_in(package)
    known = ", ".join(names)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{description}\nConfigs: {known}")
        return None
    name, *options = arguments
    # Whoever types None means the plain ViT, not "not given".
    options = [
        "none" if (before, each) == ("--broadcast", "None") else each
        for before, each in itertools.pairwise(["", *options])
    ]
    options = [o.replace("--broadcast=None", "--broadcast=none") for o in options]
    if name not in names:
        sys.exit(f"There is no config {name!r}; there are {known}.")
    config = importlib.import_module(f"{package.__name__}.{name}")
    from recipes.network import without_defaults

    default = config.config()
    prog = f"{command} {name}"
    experiment = parse(prog, options_class, config.__doc__, options, default)
    network = without_defaults(experiment.network, default.network)
    experiment = dataclasses.replace(experiment, network=network)
    return experiment, shlex.join(["python", "-m", command, *arguments])


@contextlib.contextmanager
def say_errors():
    """Ends the program with the sentence of an error that the user can mend."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        said = " ".join([str(error), *getattr(error, "__notes__", ())])
        # On a line of its own, also behind a progress bar.
        sys.exit(f"\n{type(error).__name__}: {said}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")
