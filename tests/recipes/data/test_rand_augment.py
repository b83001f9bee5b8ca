"""RandAugment's operations, against Pillow's results in randaugment.npz."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.data.augment import apply
from recipes.data.draws import OPERATIONS

pytestmark = pytest.mark.any_backend

ORACLE = np.load(Path(__file__).parents[2] / "data" / "randaugment.npz")
NAMES = [name for name in ORACLE.files if name != "image"]


def parts(name):
    operation, _, strength = name.rpartition("_")
    return (operation, float(strength)) if operation in OPERATIONS else (name, 0.0)


def test_the_oracle_has_every_operation():
    assert {parts(name)[0] for name in NAMES} == set(OPERATIONS)


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_is_pillow_s(name):
    found = apply(Image.fromarray(ORACLE["image"]), *parts(name))
    np.testing.assert_array_equal(np.asarray(found), ORACLE[name])


def test_no_bits_left_are_black():
    found = apply(Image.fromarray(ORACLE["image"]), "posterize", 0.0)
    assert not np.asarray(found).any()
