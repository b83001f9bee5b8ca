"""What every command of the recipes does alike: options in, clear errors out."""

import contextlib
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


@contextlib.contextmanager
def say_errors():
    """Ends the program with the sentence of an error that the user can mend."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        # On a line of its own, also behind a progress bar.
        sys.exit(f"\n{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")
