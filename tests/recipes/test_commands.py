import dataclasses
import warnings

import pytest
from PIL import Image

from recipes import cli
from recipes.commands import parse, report_errors
from recipes.data.folders import MissingDatasetError
from recipes.training.callbacks import NonFiniteLossError

pytestmark = pytest.mark.any_backend


@dataclasses.dataclass(frozen=True)
class Inner:
    size: tuple[int, int] = (8, 8)


@dataclasses.dataclass(frozen=True)
class Options:
    inner: Inner = Inner()
    rate: float = 0.5


def test_pillow_does_not_warn_of_what_is_refused_by_name():
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with report_errors():
            warnings.warn("large", Image.DecompressionBombWarning, stacklevel=1)
    assert not found


@pytest.mark.parametrize(
    "error", [ValueError, OSError, MissingDatasetError, NonFiniteLossError]
)
def test_errors_of_the_user_end_the_program_with_their_sentence(error):
    with pytest.raises(SystemExit) as exit, report_errors():
        raise error("rate=2 is too high; use 1.")
    assert exit.value.code.strip() == f"{error.__name__}: rate=2 is too high; use 1."


def test_errors_of_the_program_are_not_hidden():
    with pytest.raises(KeyError), report_errors():
        raise KeyError("a bug")


def test_an_interruption_ends_the_program_without_a_traceback():
    with pytest.raises(SystemExit, match="Interrupted"), report_errors():
        raise KeyboardInterrupt


def test_nested_fields_are_options_by_their_own_name():
    options = parse("some", Options, "", ["--size", "16", "24", "--rate", "0.25"])
    assert options == Options(Inner((16, 24)), 0.25)


def test_what_is_not_given_comes_from_the_default():
    default = Options(Inner((4, 4)), 0.125)
    options = parse("some", Options, "", ["--rate", "1"], default)
    assert options == Options(Inner((4, 4)), 1.0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--speed", "3"], "--speed"),
        (["--rate", "fast"], "--rate"),
        (["--size", "8"], "--size"),
    ],
)
def test_unknown_options_and_wrong_values_are_refused_by_name(arguments, named, capsys):
    with pytest.raises(SystemExit) as exit:
        parse("some", Options, "", arguments)
    assert exit.value.code == 2
    message = capsys.readouterr().err
    assert named in message
    assert "python -m recipes.some --help" in message


@pytest.mark.parametrize(
    "package, message, expected",
    [
        (
            "tyro",
            "No module named 'tyro'",
            "train requires the package tyro, which is not installed: "
            'pip install "keras_cbvit[recipes]"',
        ),
        ("jax", "The package's own words.", "The package's own words."),
    ],
)
def test_missing_packages_are_named_with_their_extra(
    package, message, expected, monkeypatch
):
    def import_module(*_):
        raise ModuleNotFoundError(message, name=package)

    monkeypatch.setattr(cli.importlib, "import_module", import_module)
    with pytest.raises(SystemExit) as exit:
        cli.main(["train", "digits"])
    assert exit.value.code == expected


def test_missing_modules_of_the_recipes_are_no_missing_packages(monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "train", "gone")
    with pytest.raises(ModuleNotFoundError, match="gone"):
        cli.main(["train", "digits"])
