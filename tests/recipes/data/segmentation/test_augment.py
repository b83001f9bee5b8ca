import colorsys
import dataclasses

import numpy as np
import pytest
from PIL import Image

from recipes.data.augment import FILL
from recipes.data.segmentation import augment as host
from recipes.data.segmentation.augment import crop_box, distort, draw, scaled_size
from recipes.data.segmentation.pairs import IGNORED
from recipes.options.segmentation import NO_AUGMENTATION, Augmentation

pytestmark = pytest.mark.any_backend


def augmented(picture, labels, size, scale, most=1.0, **drawn):
    drawn = {"ratio": 1.0, "corners": np.zeros((11, 2)), **drawn}
    return host.augment(picture, labels, size, scale, most, drawn)


@pytest.fixture
def pair():
    """Noise of 6 x 4 pixels whose labels number the pixels."""
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (4, 6, 3), dtype="uint8"))
    return picture, np.arange(24, dtype="uint8").reshape(4, 6)


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((640, 480), (512, 2048), (683, 512)),
        ((480, 640), (512, 2048), (512, 683)),
        ((640, 480), (256, 1024), (341, 256)),
        ((3000, 500), (512, 2048), (2048, 341)),
        ((480, 360), (360, 480), (480, 360)),
        ((2000, 1), (512, 2048), (2048, 1)),
    ],
)
def test_a_picture_is_scaled_as_mmcv_does(size, scale, expected):
    # new = int(old * min(long / max, short / min) + 0.5), by hand
    assert scaled_size(size, scale) == expected


def test_picture_and_labels_are_resized_bilinear_and_nearest(pair):
    picture, labels = pair
    image, classes = augmented(*pair, (8, 12), (4, 6), ratio=2.0)
    expected = picture.resize((12, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(image, np.asarray(expected))
    np.testing.assert_array_equal(classes, labels.repeat(2, axis=0).repeat(2, axis=1))


def test_crop_and_mirror_meet_picture_and_labels_alike(pair):
    # Of three places for the top, the second; of four for the left, the last.
    corners = np.full((11, 2), (0.4, 0.99))
    image, classes = augmented(*pair, (2, 3), (4, 6), corners=corners, flip=True)
    np.testing.assert_array_equal(classes, [[11, 10, 9], [17, 16, 15]])
    np.testing.assert_array_equal(image, np.asarray(pair[0])[1:3, :2:-1])


def test_what_is_too_small_is_padded_with_the_mean_and_does_not_count(pair):
    image, classes = augmented(*pair, (6, 8), (4, 6))
    np.testing.assert_array_equal(image[:4, :6], np.asarray(pair[0]))
    np.testing.assert_array_equal(classes[:4, :6], pair[1])
    for border in (slice(4, 6), slice(0, 6)), (slice(0, 6), slice(6, 8)):
        rows, columns = border[0], border[1]
        part = np.s_[rows, :] if columns == slice(0, 6) else np.s_[:, columns]
        assert (classes[part] == IGNORED).all()
        assert (image[part] == FILL).all()


# Left half one class, right half another: of a crop that is 4 wide, `left` pixels of
# the columns 0-3 are of class 0.
HALVES = np.repeat(np.array([[0] * 4 + [1] * 4], "uint8"), 4, axis=0)


def corners_at(*lefts):
    """Numbers that put the left edge of 4 columns of 8 there; the last repeated."""
    lefts = [*lefts, *[lefts[-1]] * (11 - len(lefts))]
    return np.array([(0, (left + 0.5) / 5) for left in lefts])


@pytest.mark.parametrize(
    ("lefts", "expected"),
    [
        ((2, 0), 2),  # half of each class
        ((0, 1, 4, 2), 2),  # all of one, exactly 75 % of one, all of one, half
        ((0,) * 9 + (2, 0), 2),  # the tenth
        ((0,) * 10 + (4,), 4),  # none of ten: the eleventh, whatever it is
    ],
)
def test_a_crop_with_too_much_of_one_class_is_drawn_again(lefts, expected):
    left, top, right, bottom = crop_box(HALVES, (4, 4), corners_at(*lefts), 0.75)
    assert (left, top, right, bottom) == (expected, 0, expected + 4, 4)


def test_pixels_that_do_not_count_are_of_no_class():
    labels = HALVES.copy()
    labels[:, 2:4] = IGNORED
    # Columns 2-5: half ignored, all that counts of class 1; columns 1-4: half and half.
    assert crop_box(labels, (4, 4), corners_at(2, 1), 0.75)[0] == 1
    nothing = np.full_like(labels, IGNORED)
    assert crop_box(nothing, (4, 4), corners_at(*range(4), *[3] * 6, 4), 0.75)[0] == 4


def test_any_crop_will_do_if_a_class_may_have_all():
    assert crop_box(HALVES, (4, 4), corners_at(0, 2), 1.0)[0] == 0


def test_brightness_and_contrast_are_cut_off_as_mmsegmentation_does():
    values = np.array([[[0, 100, 250]]], "uint8")
    picture = Image.fromarray(values)
    brighter = distort(picture, 10.7, 1, 1, 0, True)
    assert np.asarray(brighter).tolist() == [[[10, 110, 255]]]
    darker = distort(picture, -10.2, 1, 1, 0, True)
    assert np.asarray(darker).tolist() == [[[0, 89, 239]]]
    contrast = distort(picture, 10, 1.25, 1, 0, False)
    assert np.asarray(contrast).tolist() == [[[12, 137, 255]]]


@pytest.mark.parametrize(
    ("saturation", "hue"), [(0.6, 0), (1.4, 0), (1, 30), (0.8, -36)]
)
def test_saturation_and_hue_are_those_of_colorsys(saturation, hue):
    random = np.random.default_rng(0)
    values = random.integers(0, 256, (16, 16, 3), dtype="uint8")
    expected = np.empty(values.shape)
    for place in np.ndindex(16, 16):
        h, s, v = colorsys.rgb_to_hsv(*values[place] / 255)
        turned = (h + hue / 360) % 1, min(s * saturation, 1), v
        expected[place] = [255 * c for c in colorsys.hsv_to_rgb(*turned)]
    found = np.asarray(distort(Image.fromarray(values), 0, 1, saturation, hue, True))
    difference = np.abs(found - expected)
    assert difference.mean() < 2
    assert difference.max() < 10  # a hue of Pillow is 1.4 degrees


def test_contrast_comes_before_or_after_the_colors():
    picture = Image.fromarray(np.array([[[200, 40, 90]]], "uint8"))
    before, after = (distort(picture, 0, 1.5, 1.5, 20, first) for first in (1, 0))
    assert np.asarray(before).tolist() != np.asarray(after).tolist()


def test_what_is_drawn_has_the_distributions_of_the_recipe():
    drawn = draw(np.random.default_rng(0), 20_000, Augmentation())
    assert drawn["corners"].shape == (20_000, 11, 2)
    ratio = drawn["ratio"]
    assert 0.5 <= ratio.min() < 0.51 and 1.99 < ratio.max() <= 2
    assert ratio.mean() == pytest.approx(1.25, abs=0.01)
    assert drawn["flip"].mean() == pytest.approx(0.5, abs=0.02)
    both = drawn["flip"][1:] & drawn["flip"][:-1]
    assert both.mean() == pytest.approx(0.25, abs=0.02)
    nothing, ranges = (0, 1, 1, 0), (32, 0.5, 0.5, 36)
    for values, none, most in zip(
        drawn["photometric"].T, nothing, ranges, strict=False
    ):
        assert (values == none).mean() == pytest.approx(0.5, abs=0.02)
        assert np.abs(values - none).max() == pytest.approx(most, rel=0.01)
        changed = values[values != none]
        assert changed.mean() == pytest.approx(none, abs=0.02 * most)
    assert drawn["photometric"][:, 4].mean() == pytest.approx(0.5, abs=0.02)


def test_without_augmentation_nothing_but_the_first_crop_is_drawn():
    drawn = draw(np.random.default_rng(0), 3, NO_AUGMENTATION)
    assert drawn.keys() == {"ratio", "corners"}
    assert (drawn["ratio"] == 1).all()


def test_the_whole_policy_gives_the_size_that_is_wanted(pair):
    drawn = draw(np.random.default_rng(0), 8, dataclasses.replace(Augmentation()))
    for row in range(8):
        numbers = {name: values[row] for name, values in drawn.items()}
        image, labels = host.augment(*pair, (10, 12), (8, 12), 0.75, numbers)
        assert (image.shape, image.dtype) == ((10, 12, 3), np.uint8)
        assert (labels.shape, labels.dtype) == ((10, 12), np.uint8)
