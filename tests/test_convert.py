"""Folders of weights from before version 0.1 (`weights/convert.py`).

`tests/data/old/torch.keras` is a file as tests/exchange.py saved it then; today's
tests/data/exchange/torch.npz has what it predicted.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import keras_cbvit
from keras_cbvit import hdf5
from keras_cbvit.pretrained.sources import Folder
from tests.full_disk import files_in
from tests.tiny import values

pytestmark = pytest.mark.any_backend

TESTS = Path(__file__).parent
OLD = TESTS / "data" / "old"
CARD = """# vitcbs_toy.noise

## Made by

```
KERAS_BACKEND=torch python -m recipes.train noise --broadcast None
```

Made of pictures of noise.
"""


@pytest.fixture(scope="module")
def convert():
    """The script as a module."""
    script = TESTS.parent / "weights" / "convert.py"
    spec = importlib.util.spec_from_file_location("convert", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    """A folder with a catalog, a file and a card as they were."""
    (entry,) = json.loads((OLD / "catalog.json").read_text())["weights"]
    stem = f"{entry['name']}-{entry['sha256'][:12]}"
    shutil.copy(OLD / "catalog.json", tmp_path / "catalog.json")
    shutil.copy(OLD / "torch.keras", tmp_path / f"{stem}.keras")
    (tmp_path / f"{stem}.md").write_text(CARD)
    return tmp_path


def test_a_folder_is_converted_with_the_same_weights(convert, folder, monkeypatch):
    message = "its version is 1, not 2; `python weights/convert.py FOLDER`"
    with pytest.raises(ValueError, match=message):
        Folder(folder).records()
    before = files_in(folder).keys()
    convert.convert_folder(folder)
    (record,) = Folder(folder).records().values()
    names = {"catalog.json", record.filename, f"{record.stem}.md"}
    assert files_in(folder).keys() == names
    assert names & before == {"catalog.json"}
    assert (record.name, record.license) == ("vitcbs_toy.noise", "Apache-2.0")
    assert record.trained_on == "noise, 10 images"
    (evaluation,) = record.evaluations
    assert (evaluation.metrics, evaluation.images) == ({"top1": 0.5}, 10)
    card = (folder / f"{record.stem}.md").read_text()
    assert "Made of images of noise." in card and record.recipe in card

    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(folder))
    model = keras_cbvit.ViTCB(weights="vitcbs_toy.noise")
    assert model.class_names == tuple("abcde")
    assert model.spec.broadcast_place == "both"
    with np.load(TESTS / "data" / "exchange" / "torch.npz") as saved:
        found = values(model)
        assert found.keys() == set(saved.files) - {"images", "predictions"}
        for path, value in found.items():
            np.testing.assert_array_equal(value, saved[path], err_msg=path)
        predictions = model.predict(saved["images"], verbose=0)
        np.testing.assert_allclose(predictions, saved["predictions"], atol=1e-5)


def test_a_folder_that_cannot_be_converted_stays_as_it_is(convert, folder, monkeypatch):
    before = files_in(folder)

    def damaged(*_):
        raise ValueError("damaged")

    monkeypatch.setattr(hdf5, "read_weights", damaged)
    with pytest.raises(ValueError, match="damaged"):
        convert.convert_folder(folder)
    assert files_in(folder) == before
    monkeypatch.undo()
    convert.convert_folder(folder)
    assert len(Folder(folder).records()) == 1
