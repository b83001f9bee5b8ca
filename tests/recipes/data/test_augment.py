import numpy as np
import pytest
from PIL import Image

from recipes.data import draws
from recipes.data.augment import FILL, augment

pytestmark = pytest.mark.any_backend


@pytest.fixture
def picture():
    """A picture of 120 x 90 pixels, smooth enough to be resized."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype="uint8"))
    return coarse.resize((120, 90))


@pytest.fixture
def drawn():
    """A crop of which the box is known: of 30 % of the area and ratio 1."""
    for_ratio = np.log(4 / 3) / np.log(16 / 9)
    crop = np.full((draws.ATTEMPTS, 4), ((0.3 - 0.08) / 0.92, for_ratio, 0.5, 0.25))
    side = round((0.3 * 120 * 90) ** 0.5)
    left, top = int(0.5 * (120 - side + 1)), int(0.25 * (90 - side + 1))
    return {"crop": crop, "box": (left, top, left + side, top + side)}


def cropped(picture, box):
    return np.asarray(picture.crop(box).resize((48, 32), Image.Resampling.BICUBIC))


def test_a_crop_is_resized_with_pillows_bicubic_filter(picture, drawn):
    image = augment(picture, (32, 48), drawn)
    assert (image.shape, image.dtype) == ((32, 48, 3), np.uint8)
    np.testing.assert_array_equal(image, cropped(picture, drawn["box"]))


def test_a_crop_is_mirrored_then_augmented_then_erased(picture, drawn):
    # Inverted before it is moved: what comes in is not inverted.
    names = "invert", "translate_x", "invert"
    operations = np.array([draws.OPERATIONS.index(name) for name in names])
    operations[2] = draws.NO_OPERATION
    drawn |= {
        "flip": np.True_,
        "operations": operations,
        "strengths": np.array([0, 0.25, 0], "float32"),
        "erase": np.array([10, 20, 20, 30]),
        "noise_seed": np.array([1, 2], "uint32"),
    }
    image = augment(picture, (32, 48), drawn)
    expected = np.broadcast_to(FILL, (32, 48, 3)).copy()
    expected[:, :36] = (255 - cropped(picture, drawn["box"])[:, ::-1])[:, 12:]
    erased = np.zeros((32, 48), bool)
    erased[10:20, 20:30] = True
    np.testing.assert_array_equal((image != expected).any(axis=-1), erased)


def test_an_image_without_numbers_stays_as_it_is(picture):
    image = augment(picture, (90, 120), {})
    np.testing.assert_array_equal(image, np.asarray(picture))


@pytest.mark.parametrize("by", [(0, 0), (2, 0), (-2, 0), (0, 3), (0, -3), (-1, 2)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_shift_moves_an_image_before_it_is_mirrored_and_black_comes_in(by, flip):
    original = np.random.default_rng(0).integers(1, 256, (5, 7, 3), dtype="uint8")
    drawn = {"shift": np.array(by, "int32"), "flip": np.bool_(flip)}
    image = augment(Image.fromarray(original), (5, 7), drawn)
    if flip:
        image = image[:, ::-1]
    for row in range(5):
        for column in range(7):
            up, left = row + by[0], column + by[1]
            inside = 0 <= up < 5 and 0 <= left < 7
            expected = original[up, left] if inside else 0
            np.testing.assert_array_equal(image[row, column], expected)


def test_the_same_numbers_give_the_same_image(picture):
    random = np.random.default_rng(0)
    operations, strengths = draws.rand_augment(random, 2, 9)
    drawn = {
        "crop": draws.crop_attempts(random, 2),
        "flip": np.array([True, False]),
        "operations": operations,
        "strengths": strengths,
        "erase": draws.erase_boxes(random, 2, 32, 32, 1.0),
        "noise_seed": np.array([(1, 2), (3, 4)], "uint32"),
    }
    one, again, other = (
        augment(picture, (32, 32), {k: v[row] for k, v in drawn.items()})
        for row in (0, 0, 1)
    )
    np.testing.assert_array_equal(again, one)
    assert (other != one).mean() > 0.5
