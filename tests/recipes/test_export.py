"""`keras-cbvit export`: from a name to folders of other runtimes."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

from keras_cbvit.export.formats import FORMATS
from recipes import export

pytestmark = pytest.mark.slow
OWN = {"torch": "torch", "tensorflow": "saved_model", "jax": "stablehlo"}[
    keras.backend.backend()
]


@pytest.fixture
def photos(tmp_path):
    """A folder of four photographs, of any size, one in a folder within."""
    random = np.random.default_rng(0)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for name in ("a.png", "b.png", "c.png", "more/d.png"):
        pixels = random.integers(0, 256, (48, 40, 3), "uint8")
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    return str(tmp_path / "photos")


def test_published_weights_are_exported_with_what_their_record_says(
    photos, tmp_path, capsys
):
    options = ["--to", OWN, "--images", photos, "--out", str(tmp_path / "out")]
    export.main(["vitcb_mini.cifar10", *options])
    facts = json.loads((tmp_path / "out" / OWN / "model.json").read_text())
    assert facts["license"] == "Apache-2.0"
    assert facts["class_names"][:2] == ["airplane", "automobile"]
    assert [*facts["differences"]] == ["1x32x32x3", "3x32x32x3"]
    printed = capsys.readouterr().out
    for difference in facts["differences"].values():
        assert difference <= 1e-5
        assert f"{difference:.1e}" in printed
    assert str(tmp_path / "out" / OWN / FORMATS[OWN].file) in printed


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "options, message",
    [
        (["--images", "nowhere"], "nowhere"),
        (["--limit", "0", "--images", "."], "limit=0 must be at least 1"),
        (["--quantize", "int8"], "'torch' has no int8"),
    ],
)
def test_what_cannot_work_ends_in_a_sentence(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        export.main(["vitcb_mini.cifar10", "--to", "torch", *options])
    assert not [*tmp_path.iterdir()]
