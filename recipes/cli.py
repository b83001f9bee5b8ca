"""Command line of the installed package: `keras-cbvit COMMAND ...`."""

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
"""Modules by command name; only the module of the requested command is imported."""
_HELP = """Vision Transformers with Context Broadcasting.

usage: keras-cbvit COMMAND [options]

  train       Train a model from a config and optionally publish it.
  evaluate    Evaluate and compare models.
  publish     Evaluate an already trained model and publish it.
  analyze     Analyze trained models: attention, Λ, and cost.
  export      Export a model to other runtimes, such as ONNX Runtime.
  paper       Reproduce the paper's tables and figures.
  benchmark   Benchmark the package against others.
  quickstart  Train, publish and fine-tune a model on handwritten digits.

Run `keras-cbvit COMMAND --help` for the options of a command. Set KERAS_BACKEND
to tensorflow, jax or torch to choose the backend."""


def main(arguments=None):
    """Runs a command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        return
    name, *rest = arguments
    if name not in COMMANDS:
        sys.exit(f"Unknown command {name!r}; use one of {', '.join(COMMANDS)}.")
    try:
        module = importlib.import_module(f".{COMMANDS[name]}", __package__)
        importlib.import_module(".commands", __package__)  # some modules defer this
    except ModuleNotFoundError as error:
        sys.exit(_advice(name, error))
    module.main(rest)


def _advice(command, error):
    """Names the package to install; reraises the error if our own module is missing."""
    package = (error.name or "").partition(".")[0]
    if package in ("", __package__.partition(".")[0]):
        raise error
    if package in ("tensorflow", "jax", "torch"):
        return str(error)  # of keras_cbvit
    return (
        f"{command} requires the package {package}, which is not installed: "
        'pip install "keras_cbvit[recipes]"'
    )


if __name__ == "__main__":
    main()
