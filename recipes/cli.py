"""The recipes as commands of the installed package: `keras-cbvit COMMAND ...`."""

import importlib
import sys

COMMANDS = {
    "train": "train",
    "evaluate": "evaluate",
    "publish": "publish",
    "analyze": "analyze",
    "export": "export",
    "paper": "paper.__main__",
    "benchmark": "benchmark.__main__",
    "quickstart": "quickstart",
}
"""With the module of each, of which only the one that is asked for is imported."""
_HELP = """Vision Transformers with Context Broadcasting.

usage: keras-cbvit COMMAND [options]

  train       trains a model of a config, of any task, and publishes it if asked
  evaluate    measures models side by side
  publish     measures a model trained elsewhere and publishes it
  analyze     looks into trained models: attention, Λ, cost
  export      writes a model for another runtime, such as ONNX Runtime, and compares
  paper       trains and measures what the paper's tables and figures show
  benchmark   measures speed
  quickstart  the whole path on handwritten digits

Each has --help. KERAS_BACKEND=tensorflow, jax or torch is the backend."""


def main(arguments=None):
    """Runs a command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        return
    name, *rest = arguments
    if name not in COMMANDS:
        sys.exit(f"There is no command {name!r}; there are {', '.join(COMMANDS)}.")
    try:
        module = importlib.import_module(f".{COMMANDS[name]}", __package__)
        importlib.import_module(".commands", __package__)  # which some import late
    except ModuleNotFoundError as error:
        sys.exit(_advice(name, error))
    module.main(rest)


def _advice(command, error):
    """What to install where a package is missing; a module of ours is a defect."""
    package = (error.name or "").partition(".")[0]
    if package in ("", __package__.partition(".")[0]):
        raise error
    if package in ("tensorflow", "jax", "torch"):
        return (
            f"The backend {package} is not installed. Set KERAS_BACKEND to tensorflow, "
            f'jax or torch, or install it: pip install "keras_cbvit[{package}]"'
        )
    return (
        f"{command} needs the package {package}, which is not installed: "
        'pip install "keras_cbvit[recipes]"'
    )


if __name__ == "__main__":
    main()
