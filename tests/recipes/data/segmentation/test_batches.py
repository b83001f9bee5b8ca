import dataclasses

import numpy as np
import pytest

from recipes.data.feed import Feed
from recipes.data.segmentation.batches import TrainingCrops
from recipes.data.segmentation.pairs import IGNORED, Pairs
from recipes.options.segmentation import NO_AUGMENTATION, Augmentation, Data

pytestmark = pytest.mark.any_backend

DATA = Data("none", scale=(6, 8), image_size=(6, 8), class_names=("a", "b", "c"))


def pairs_of(number):
    """Pictures of 6 x 8 pixels, each told from the others by its blue."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (number, 6, 8, 3), dtype="uint8")
    images[..., 2] = np.arange(number)[:, None, None]
    labels = random.integers(0, 4, (number, 6, 8), dtype="uint8")
    return Pairs(images, labels, 3, 3, "image {}".format, "labels {}".format)


def crops(number=5, batch_size=2, augmentation=NO_AUGMENTATION, **options):
    return TrainingCrops(pairs_of(number), batch_size, DATA, augmentation, **options)


def assert_same(one, other):
    for array, other_array in zip(one, other, strict=True):
        np.testing.assert_array_equal(array, other_array)


def test_a_batch_has_crops_labels_and_the_weight_that_counts_pixels():
    batches = crops()
    images, labels, weights = batches[0]
    assert (images.shape, images.dtype) == ((2, 6, 8, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((2, 6, 8), np.uint8)
    for image, classes, index in zip(images, labels, batches.indices(0), strict=True):
        picture, expected = batches.pairs[index]
        np.testing.assert_array_equal(image, np.asarray(picture))
        np.testing.assert_array_equal(classes, expected)
    counted = (labels != IGNORED).sum()
    assert 0 < counted < 96
    np.testing.assert_allclose(weights, [96 / counted] * 2, rtol=1e-6)


def test_every_picture_is_seen_once_before_any_is_seen_again():
    batches = crops(number=5, batch_size=2)
    seen = np.concatenate([batches.indices(step) for step in range(10)])
    for first in range(0, 20, 5):
        assert sorted(seen[first : first + 5]) == list(range(5))
    assert len({tuple(seen[first : first + 5]) for first in range(0, 20, 5)}) > 1
    larger = crops(number=2, batch_size=5).indices(0)
    assert sorted(larger[:2]) == sorted(larger[2:4]) == [0, 1]


def test_a_batch_follows_from_the_seed_and_the_step_alone():
    policy = Augmentation()
    one, other = (crops(augmentation=policy, seed=3) for _ in range(2))
    late = one[7]
    assert_same(late, other[7])
    assert_same(late, list(Feed(other, 0).read(6, 8))[1])
    for different in (one[8], crops(augmentation=policy, seed=4)[7]):
        assert not np.array_equal(late[0], different[0])


def test_crops_are_augmented_each_in_its_own_way():
    policy = dataclasses.replace(NO_AUGMENTATION, photometric=True)
    images, labels, _ = crops(number=1, batch_size=6, augmentation=policy)[0]
    assert (labels == labels[0]).all()
    assert len({image.tobytes() for image in images}) > 2


def test_a_batch_without_labels_has_a_loss_of_nothing():
    pairs = pairs_of(2)
    pairs.labels = np.full_like(pairs.labels, 3)
    _, labels, weights = TrainingCrops(pairs, 2, DATA, NO_AUGMENTATION)[0]
    assert (labels == IGNORED).all()
    assert np.isfinite(weights).all()


def test_a_wrong_label_stops_with_the_name_of_the_file():
    pairs = pairs_of(2)
    pairs.labels[1, 0, 0] = 9
    with pytest.raises(ValueError, match="labels 1 has the unknown labels 9"):
        list(Feed(TrainingCrops(pairs, 2, DATA, NO_AUGMENTATION), 0).read(0, 1))


def test_no_pictures_are_refused():
    with pytest.raises(ValueError, match="contains no images"):
        crops(number=0)
