"""The Python of docs/export.md runs as it stands there, block after block."""

import numpy as np
import pytest

from tests.test_readme import ROOT, blocks

pytestmark = [pytest.mark.any_backend, pytest.mark.slow]


def test_the_page_exports_a_model_and_runs_it_without_keras(
    tmp_path, monkeypatch, capsys
):
    pytest.importorskip("onnxruntime", reason="the runtimes are not here")
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), "uint8")
    names = {"small_images": images}
    page = ROOT / "docs" / "export.md"
    for line, code in blocks(page, "python"):
        exec(compile("\n" * (line - 1) + code, page, "exec"), names)
    printed = capsys.readouterr().out
    assert "'mean': [" in printed
    assert len(names["predictions"]) == 2
