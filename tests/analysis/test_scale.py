import numpy as np
import pytest

from keras_cbvit import analysis
from tests.compare import assert_close
from tests.tiny import tiny


def with_scales(*scales, **changes):
    """A CB_S model with these Λ."""
    model = tiny(broadcast="cbs", **changes)
    paths = [w for w in model.weights if w.path.endswith("/scale")]
    for weight, scale in zip(paths, scales, strict=True):
        weight.assign(scale)
    return model


def test_the_scales_are_given_by_layer():
    first, second = np.arange(16), -np.arange(16.0)
    scales = analysis.channel_scales(with_scales(first, second))
    assert list(scales) == [f"block_{i}/mlp/context_broadcast" for i in range(2)]
    for found, expected in zip(scales.values(), (first, second), strict=True):
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, expected)


def test_ratio_and_mean_of_scales_made_by_hand():
    # Of |λ| = 1 … 16 the 10 % quantile is at 1 + 1.5, the 90 % one at 1 + 13.5.
    signs = np.where(np.arange(16) % 2, 1, -1)
    found = analysis.scale_statistics(
        with_scales(signs * np.arange(1, 17), np.full(16, -0.5))
    )
    assert_close(found["ratio"], [2.5 / 14.5, 1])
    assert_close(found["mean"], [0.5, -0.5])


def test_at_the_start_there_is_no_ratio():
    found = analysis.scale_statistics(tiny(broadcast="cbs"))
    np.testing.assert_array_equal(found["ratio"], [np.nan, np.nan])
    np.testing.assert_array_equal(found["mean"], [0, 0])


def test_both_places_have_a_scale():
    scales = [np.full(16, float(i)) for i in range(4)]
    found = analysis.channel_scales(with_scales(*scales, broadcast_place="both"))
    assert {path: scale[0] for path, scale in found.items()} == {
        f"block_{i}{place}/context_broadcast": 2 * i + j
        for i in range(2)
        for j, place in enumerate(("", "/mlp"))
    }


@pytest.mark.parametrize("broadcast", [None, "cb"])
def test_a_model_without_scale_is_refused(broadcast):
    with pytest.raises(ValueError, match="has no Λ; only CB_S models"):
        analysis.scale_statistics(tiny(broadcast=broadcast))
