"""Files that each backend saved on an earlier day; `nox -s exchange` saves new ones."""

from pathlib import Path

import pytest

from tests.exchange import BACKENDS, MODELS, check_file, check_lora

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent / "data" / "exchange"


@pytest.mark.parametrize("saved_on", BACKENDS)
@pytest.mark.parametrize("prefix", MODELS)
def test_files_of_every_backend_predict_the_same_on_this_one(prefix, saved_on):
    check_file(FOLDER, prefix + saved_on)


@pytest.mark.parametrize("saved_on", BACKENDS)
def test_lora_of_every_backend_predicts_the_same_on_this_one(saved_on):
    check_lora(FOLDER, saved_on)
