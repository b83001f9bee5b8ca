import numpy as np
import pytest

from keras_cbvit.layers.initializers import dense_kernel, patch_kernel
from tests.compare import to_numpy


def draw(initializer, shape):
    return to_numpy(initializer(shape))


def test_dense_kernels_are_normal_and_not_cut_at_two_standard_deviations():
    values = draw(dense_kernel(), (300, 400))
    assert values.std() == pytest.approx(0.02, rel=0.01)
    assert abs(values.mean()) < 0.0005
    # A normal has 4.6 % outside of two standard deviations, 0.3 % of three.
    assert (np.abs(values) > 0.04).mean() == pytest.approx(0.0455, rel=0.05)
    assert (np.abs(values) > 0.06).mean() == pytest.approx(0.0027, rel=0.2)


def test_patch_kernels_are_uniform_within_one_over_the_root_of_the_fan_in():
    values = draw(patch_kernel(), (400, 300))
    assert 0.0499 < np.abs(values).max() <= 0.05
    assert values.std() == pytest.approx(0.05 / np.sqrt(3), rel=0.01)
