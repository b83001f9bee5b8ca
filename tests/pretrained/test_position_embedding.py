from pathlib import Path

import numpy as np
import pytest

from keras_cbvit.pretrained.position_embedding import resample_position_embedding

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def embeddings():
    """timm's, on a grid of 4x6 patches and resampled from it to others."""
    with np.load(DATA / "position_embedding.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("grid", [(7, 5), (8, 12), (2, 3)])
def test_resampling_is_timms(grid, embeddings):
    source = embeddings["grid_4x6"]
    found = resample_position_embedding(source, (4, 6), grid)
    assert found.dtype == "float32"
    expected = embeddings[f"grid_{grid[0]}x{grid[1]}"]
    assert found.shape == expected.shape == (1, 1 + grid[0] * grid[1], 48)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_the_same_grid_stays_as_it_is(embeddings):
    source = embeddings["grid_4x6"].astype("float32")
    found = resample_position_embedding(source, (4, 6), (4, 6))
    np.testing.assert_allclose(found, source, rtol=0, atol=1e-6)


def test_the_class_tokens_embedding_is_kept(embeddings):
    source = embeddings["grid_4x6"].astype("float32")
    found = resample_position_embedding(source, (4, 6), (9, 2))
    np.testing.assert_array_equal(found[:, 0], source[:, 0])


def test_a_constant_stays_constant():
    found = resample_position_embedding(np.full((1, 7, 2), 3.0), (2, 3), (5, 1))
    np.testing.assert_allclose(found, np.full((1, 6, 2), 3.0), atol=1e-6)
