import io
import re
import sys

import pytest

from recipes.data.feed import Feed
from recipes.training.progress import Progress

pytestmark = pytest.mark.any_backend


class Terminal(io.StringIO):
    def isatty(self):
        return True


def train(epochs=2, steps=3):
    progress = Progress(0, steps, epochs, 100, Feed(None, 0))
    progress.on_train_begin()
    for epoch in range(epochs):
        for step in range(steps):
            progress.on_train_batch_end(step, {"loss": 2.0})
        progress.on_epoch_end(epoch, {"loss": 1.5, "val_accuracy": 0.25})
    progress.on_train_end()


def test_a_log_file_gets_whole_lines(capsys):
    train()
    printed = capsys.readouterr()
    assert printed.out == (
        "Epoch 1 of 2: loss 1.5000, val_accuracy 0.2500\n"
        "Epoch 2 of 2: loss 1.5000, val_accuracy 0.2500\n"
    )
    assert re.fullmatch(
        r"0%\|.*\| 0\.00/600 .*\n100%\|.*\| 600/600 .*, loss=2\.0000.*\]\n", printed.err
    )


def test_an_epoch_is_in_the_file_at_once(tmp_path, monkeypatch):
    with open(tmp_path / "log", "w") as log:
        monkeypatch.setattr(sys, "stdout", log)
        train()
        assert len((tmp_path / "log").read_text().splitlines()) == 2


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    train()
    assert terminal.getvalue().count("\r") > 2
    assert "600/600" in terminal.getvalue()
