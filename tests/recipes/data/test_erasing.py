"""Random erasing, against the noise of torchvision and timm: N(0, 1) per pixel."""

import numpy as np
import pytest
from keras import ops
from scipy import stats

from recipes.data import augment
from recipes.training.mixing import mix

# torchvision's and timm's, which normalize values of 0-1.
MEAN = 255 * np.array([0.485, 0.456, 0.406])
STANDARD_DEVIATION = 255 * np.array([0.229, 0.224, 0.225])

BOX = np.s_[20:220, 30:200]


def erase(images, boxes, seed):
    seeds = np.stack([seed, seed + 10])
    images = np.stack(list(map(augment.erase, images, boxes, seeds)))
    assert images.dtype == np.uint8
    labels = np.eye(2, dtype="float32")
    erased, _ = mix({"images": images, "erase": boxes}, labels)
    return ops.convert_to_numpy(erased)


def test_a_box_is_erased_by_noise_of_imagenets_distribution():
    images = np.full((2, 224, 224, 3), 9, "uint8")
    boxes = np.array([(20, 30, 220, 200), (0, 0, 0, 0)], "int32")
    seed = np.array([1, 2], "uint32")
    erased = erase(images, boxes, seed)
    np.testing.assert_array_equal(erased[1], images[1])
    outside = np.ones((224, 224), bool)
    outside[BOX] = False
    assert (erased[0][outside] == 9).all()

    noise = (erased[0][BOX] - MEAN) / STANDARD_DEVIATION
    assert noise.mean(axis=(0, 1)) == pytest.approx(0, abs=0.03)
    assert noise.std(axis=(0, 1)) == pytest.approx(1, abs=0.03)
    assert erased[0].min() < -20 and erased[0].max() > 300  # not cut off
    for channel in range(3):
        assert stats.kstest(noise[..., channel].ravel(), "norm").pvalue > 0.001
    assert stats.kurtosis(noise.ravel()) == pytest.approx(0, abs=0.05)
    channels = np.corrcoef(noise.reshape(-1, 3).T)
    assert channels == pytest.approx(np.eye(3), abs=0.03)
    neighbors = np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())
    assert neighbors == pytest.approx(np.eye(2), abs=0.03)

    np.testing.assert_array_equal(erase(images, boxes, seed), erased)
    other = erase(images, boxes, seed + 1)
    assert (other[0][BOX] != erased[0][BOX]).mean() > 0.9
