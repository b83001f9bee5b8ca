"""The feed's benchmark counts what is prepared, in threads and in processes."""

import json

import pytest
from PIL import Image

from recipes.benchmark.__main__ import main


@pytest.mark.any_backend
@pytest.mark.slow
def test_the_feed_gives_what_the_simulated_cores_prepare(tmp_path, capsys):
    options = ["--simulated-cores", "1", "2", "--milliseconds", "2", "--batches", "4"]
    options += ["--batch-size", "64", "--image-size", "8"]
    options += ["--json", str(tmp_path / "feed.json")]
    main(["feed", *options, "--figure", str(tmp_path / "feed.png")])
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "feed.json").read_text())["rows"]
    kinds = [(1, "threads"), (1, "processes"), (2, "threads"), (2, "processes")]
    assert [(row["cores"], row["kind"]) for row in rows] == kinds
    for row in rows:
        assert f"{row['images_per_second']:.0f} |" in printed
        # At 2 ms an image; a busy machine gives less, but none gives more.
        assert 0 < row["images_per_second"] < 550 * row["cores"]
        assert row["main_process_ms_per_batch"] > 0
    with Image.open(tmp_path / "feed.png") as image:
        assert image.size == (600, 456)
