"""RandAugment on host and device, against Pillow's results in randaugment.npz."""

from pathlib import Path

import numpy as np
import pytest
from keras import ops
from PIL import Image

from recipes.data import on_device, on_host
from recipes.data.draws import OPERATIONS

ORACLE = np.load(Path(__file__).parents[2] / "data" / "randaugment.npz")
NAMES = [name for name in ORACLE.files if name != "image"]
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def parts(name):
    operation, _, strength = name.rpartition("_")
    return (operation, float(strength)) if operation in OPERATIONS else (name, 0.0)


def on_the_device(images, operations, strengths):
    arguments = (images, np.int32(operations), np.float32(strengths))
    result = on_device.rand_augment(*map(ops.convert_to_tensor, arguments))
    return ops.convert_to_numpy(result)


def test_the_oracle_has_every_operation():
    assert {parts(name)[0] for name in NAMES} == set(OPERATIONS)


@pytest.mark.parametrize("name", NAMES)
def test_on_the_host_every_operation_is_pillow_s(name):
    found = on_host.apply(Image.fromarray(ORACLE["image"]), *parts(name))
    np.testing.assert_array_equal(np.asarray(found), ORACLE[name])


@pytest.mark.parametrize("name", NAMES)
def test_on_the_device_values_are_pillow_s_and_places_within_a_gray_level(name):
    operation, strength = parts(name)
    image = ORACLE["image"]
    index = OPERATIONS.index(operation)
    # The other image of the batch stays as it is.
    found = on_the_device(
        np.stack([image, image]), [[index], [-1]], [[strength], [3.0]]
    )
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[1], image)
    if operation not in GEOMETRIC:
        np.testing.assert_array_equal(found[0], ORACLE[name])
        return
    # Pillow sets a whole pixel to the fill where its center is outside; inside:
    white = Image.fromarray(np.full_like(image, 255))
    moved = np.asarray(on_host.apply(white, operation, strength))
    inside = (moved == 255).all(axis=2)
    assert inside.mean() > 0.4
    difference = np.abs(found[0].astype(int) - ORACLE[name])[inside]
    assert difference.mean() < 0.5


def test_two_operations_follow_each_other():
    image = ORACLE["image"]
    invert, solarize = OPERATIONS.index("invert"), OPERATIONS.index("solarize")
    found = on_the_device(image[None], [[invert, solarize]], [[0.0, 26.0]])
    inverted = 255 - image
    expected = np.where(inverted < 26, inverted, 255 - inverted)
    np.testing.assert_array_equal(found[0], expected)


def test_no_bits_left_are_black():
    found = on_host.apply(Image.fromarray(ORACLE["image"]), "posterize", 0.0)
    assert not np.asarray(found).any()
    index = OPERATIONS.index("posterize")
    assert not on_the_device(ORACLE["image"][None], [[index]], [[0.0]]).any()


def test_an_image_of_one_value_stays_finite():
    image = np.full((1, 8, 8, 3), 77, "uint8")
    for name in ("auto_contrast", "equalize"):
        found = on_the_device(image, [[OPERATIONS.index(name)]], [[0.0]])
        np.testing.assert_array_equal(found, image)
