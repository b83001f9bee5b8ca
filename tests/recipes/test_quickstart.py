import dataclasses

import numpy as np
from PIL import Image

from recipes import quickstart
from recipes.configs import digits


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
    assert f"Digits: {accuracies[0] * 360:.0f} of 360 test images right" in out
    card = (tmp_path / "weights" / f"{quickstart.NAME}.md").read_text()
    assert f"{accuracies[0] * 360:.0f} of 360 test images right" in card
    for picture in ("predictions.png", "run/curves.png"):
        with Image.open(tmp_path / picture) as image:
            assert len(image.getcolors(1 << 20)) > 50
