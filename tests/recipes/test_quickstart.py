import dataclasses

import numpy as np
import pytest
from PIL import Image

from recipes import quickstart
from recipes.configs import digits
from recipes.data.images import Split
from recipes.options.classification import Data
from tests.pretrained.places import published_file

pytestmark = pytest.mark.slow


@pytest.mark.any_backend
def test_the_quickstart_leaves_what_it_promises(tmp_path, monkeypatch, capsys):
    config = digits.config()
    short = dataclasses.replace(
        config,
        network=dataclasses.replace(config.network, depth=1, hidden_dim=16),
        training=dataclasses.replace(
            config.training, epochs=1, warmup_epochs=0, global_batch_size=128
        ),
    )
    monkeypatch.setattr(digits, "config", lambda: short)
    monkeypatch.setattr(quickstart, "FINE_TUNING_EPOCHS", 1)
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", "")  # and back to what it was
    accuracies = quickstart.quickstart(tmp_path)
    assert np.all((accuracies > 0) & (accuracies <= 1))
    out = capsys.readouterr().out
    assert f"Digits: {accuracies[0] * 360:.0f} of 360 test images correct" in out
    card = published_file(tmp_path / "weights", quickstart.NAME, ".md").read_text()
    assert f"{accuracies[0] * 360:.0f} of 360 test images correct" in card
    for picture in ("predictions.png", "run/curves.png"):
        with Image.open(tmp_path / picture) as image:
            assert len(image.getcolors(1 << 20)) > 50


@pytest.mark.any_backend
def test_a_wrong_prediction_is_drawn_in_another_color(tmp_path):
    def colored(labels):
        split = Split(np.zeros((24, 8, 8, 3), "uint8"), np.array(labels))
        decoded = [[("3", 0.75), ("8", 0.25)]] * 24
        quickstart.draw_predictions(split, decoded, tmp_path / "predictions.png")
        with Image.open(tmp_path / "predictions.png") as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        return int((pixels[..., 0] - pixels[..., 2] > 100).sum())

    assert colored([3] * 24) == 0
    assert colored([3] * 23 + [5]) > 50


def test_errors_end_the_quickstart_with_a_sentence(tmp_path, monkeypatch):
    broken = dataclasses.replace(digits.config(), data=Data(image_size=(16, 18)))
    monkeypatch.setattr(digits, "config", lambda: broken)
    with pytest.raises(SystemExit, match="multiples of patch_size"):
        quickstart.main(["--folder", str(tmp_path)])
