"""What is drawn, against its definitions, over thousands of draws."""

import numpy as np
import pytest

from recipes.data import draws

pytestmark = pytest.mark.any_backend


@pytest.fixture
def random():
    return np.random.default_rng(0)


def assert_uniform(values, low, high):
    """The quantiles are those of a uniform distribution, within five deviations."""
    shares = np.sort((np.asarray(values) - low) / (high - low))
    expected = (np.arange(len(shares)) + 0.5) / len(shares)
    assert np.abs(shares - expected).max() < 2.5 / len(shares) ** 0.5


# Crops


def crops(random, height, width, number=4000):
    attempts = draws.crop_attempts(random, number)
    return np.array([draws.crop_box(each, height, width) for each in attempts])


def test_crops_that_always_fit_are_uniform_in_area_and_in_the_logarithm_of_the_ratio(
    random,
):
    # So large that rounding does not matter; of at most half the area, all fit.
    attempts = draws.crop_attempts(random, 4000)
    boxes = np.array(
        [draws.crop_box(each, 9000, 9000, area=(0.08, 0.5)) for each in attempts]
    )
    left, top, right, bottom = boxes.T
    width, height = right - left, bottom - top
    assert_uniform(width * height / 81e6, 0.08, 0.5)
    assert_uniform(np.log(width / height), np.log(3 / 4), np.log(4 / 3))
    assert_uniform(left / (9000 - width), 0, 1)
    assert_uniform(top / (9000 - height), 0, 1)


def test_crops_lie_inside_have_the_area_and_ratio_and_reach_the_whole_range(random):
    left, top, right, bottom = crops(random, 375, 500).T
    assert left.min() >= 0
    assert top.min() >= 0
    assert right.max() <= 500
    assert bottom.max() <= 375
    area = (right - left) * (bottom - top) / (375 * 500)
    ratio = (right - left) / (bottom - top)
    assert 0.078 < area.min() < 0.1
    assert 0.95 < area.max() <= 1
    assert 0.73 < ratio.min() < 0.77
    assert 1.3 < ratio.max() < 1.36


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (100, 1000, (433, 0, 566, 100)),
        (1000, 100, (0, 433, 100, 566)),
        (1, 1, (0, 0, 1, 1)),
    ],
)
def test_if_nothing_fits_the_largest_center_crop_is_taken(height, width, expected):
    too_large = np.full((10, 4), 0.999999)
    box = draws.crop_box(too_large, height, width, area=(4, 5))
    assert box == expected


# RandAugment


def test_operations_are_uniform_and_applied_with_probability_one_half(random):
    operations, strengths = draws.rand_augment(random, 15000, magnitude=9.0)
    assert operations.shape == strengths.shape == (15000, 2)
    names, counts = np.unique(operations, return_counts=True)
    assert names.tolist() == list(range(-1, 15))
    assert counts[0] == pytest.approx(15000, abs=500)
    assert counts[1:] == pytest.approx(1000, abs=160)


def test_magnitudes_are_normal_about_9_and_cut_off_at_10(random):
    operations, strengths = draws.rand_augment(random, 20000, 9.0, probability=1.0)
    degrees = strengths[operations == draws.OPERATIONS.index("rotate")]
    assert (degrees > 0).mean() == pytest.approx(0.5, abs=0.05)
    magnitude = np.abs(degrees) / 3
    assert np.median(magnitude) == pytest.approx(9, abs=0.05)
    assert (magnitude < 8.5).mean() == pytest.approx(0.1587, abs=0.04)
    assert (magnitude == 10).mean() == pytest.approx(0.0228, abs=0.015)


@pytest.mark.parametrize(
    ("operation", "sign", "expected"),
    [  # as the names of the oracle's arrays have them
        ("rotate", 1, 27),
        ("rotate", -1, -27),
        ("posterize", 1, 1),
        ("solarize", 1, 26),
        ("solarize_add", 1, 99),
        ("color", 1, 1.81),
        ("contrast", -1, 0.19),
        ("brightness", 1, 1.81),
        ("sharpness", -1, 0.19),
        ("shear_x", 1, 0.27),
        ("shear_y", -1, -0.27),
        ("translate_x", 1, 0.405),
        ("translate_y", -1, -0.405),
        ("invert", 1, 0),
    ],
)
def test_the_strengths_at_magnitude_9(operation, sign, expected):
    found = draws.strength(np.array([draws.OPERATIONS.index(operation)]), 0.9, sign)
    assert found == pytest.approx(expected)


# Erasing


def test_a_quarter_of_the_images_is_erased_by_2_to_33_percent(random):
    boxes = draws.erase_boxes(random, 20000, 224, 224, 0.25)
    top, left, bottom, right = boxes[(boxes != 0).any(axis=1)].T
    assert len(top) == pytest.approx(5000, abs=310)
    height, width = bottom - top, right - left
    assert top.min() >= 0
    assert left.min() >= 0
    assert bottom.max() <= 224
    assert right.max() <= 224
    assert_uniform(height * width / 224**2, 0.019, 1 / 3)
    assert np.median(height / width) == pytest.approx(1, abs=0.06)
    assert (height / width).min() == pytest.approx(0.3, abs=0.02)
    assert (height / width).max() == pytest.approx(10 / 3, abs=0.2)
    assert_uniform(top / (224 - height), -0.002, 1.0)


def test_nothing_or_everything_can_be_erased(random):
    assert not draws.erase_boxes(random, 100, 32, 32, 0.0).any()
    assert draws.erase_boxes(random, 100, 32, 32, 1.0).any(axis=1).all()


# Mixing


def mixes(random, mixup_alpha, cutmix_alpha, number=4000):
    drawn = [
        draws.mix(random, 64, 96, mixup_alpha, cutmix_alpha) for _ in range(number)
    ]
    share, weight, box = (np.array(part) for part in zip(*drawn, strict=True))
    return share, weight, box


def test_mixup_and_cutmix_take_turns(random):
    _, weight, _ = mixes(random, 0.8, 1.0)
    assert (weight == 1).mean() == pytest.approx(0.5, abs=0.04)


def test_the_share_of_mixup_is_beta_distributed(random):
    share, weight, box = mixes(random, 0.8, 0.0)
    np.testing.assert_array_equal(share, weight)
    assert not box.any()
    assert share.mean() == pytest.approx(0.5, abs=0.03)
    assert share.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.06)


def test_the_share_of_cutmix_is_what_its_box_leaves(random):
    share, weight, box = mixes(random, 0.0, 1.0)
    assert (weight == 1).all()
    top, left, bottom, right = box.T
    assert top.min() >= 0
    assert left.min() >= 0
    assert bottom.max() <= 64
    assert right.max() <= 96
    np.testing.assert_allclose(share, 1 - (bottom - top) * (right - left) / (64 * 96))
    # Where the box is whole, 1 - λ was uniform for Beta(1, 1).
    assert 0.2 < np.median(1 - share) < 0.5
    assert (1 - share).max() > 0.9
    assert share.max() > 0.98


def test_without_both_nothing_is_mixed(random):
    assert draws.mix(random, 8, 8, 0.0, 0.0) == (1.0, 1.0, (0, 0, 0, 0))
