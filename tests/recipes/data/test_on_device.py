"""Shift, flip, erasing and mixing, against brute force."""

import numpy as np
from keras import ops

from recipes.data import draws
from recipes.data.on_device import augment

IMAGES = np.random.default_rng(0).integers(1, 256, (6, 5, 7, 3), dtype="uint8")
LABELS = np.eye(6, dtype="float32")


def augmented(images=IMAGES, labels=LABELS, **drawn):
    images, labels = augment({"images": images, **drawn}, labels)
    return ops.convert_to_numpy(images), ops.convert_to_numpy(labels)


def test_a_batch_without_draws_stays_as_it_is():
    images, labels = augmented()
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


def test_a_flip_mirrors_the_images_it_is_drawn_for():
    flip = np.array([True, False, True, False, False, True])
    images, _ = augmented(flip=flip)
    expected = [i[:, ::-1] if f else i for i, f in zip(IMAGES, flip, strict=True)]
    np.testing.assert_array_equal(images, expected)


def test_a_shift_moves_each_image_and_black_comes_in():
    by = np.array([(0, 0), (2, 0), (-2, 0), (0, 3), (0, -3), (-1, 2)], "int32")
    images, _ = augmented(shift=by)
    for image, original, (up, left) in zip(images, IMAGES, by, strict=True):
        for row in range(5):
            for column in range(7):
                inside = 0 <= row + up < 5 and 0 <= column + left < 7
                expected = original[row + up, column + left] if inside else 0
                np.testing.assert_array_equal(image[row, column], expected)


def mix(share, weight, box, labels=LABELS):
    return augmented(
        labels=labels,
        share=np.full(6, share, "float32"),
        weight=np.full(6, weight, "float32"),
        paste=np.tile(np.int32(box), (6, 1)),
    )


def test_mixup_blends_images_and_labels():
    images, labels = mix(0.75, 0.75, (0, 0, 0, 0))
    for i in range(6):
        expected = 0.75 * IMAGES[i] + 0.25 * IMAGES[5 - i]
        np.testing.assert_allclose(images[i], expected, rtol=1e-6)
        expected = 0.75 * LABELS[i] + 0.25 * LABELS[5 - i]
        np.testing.assert_allclose(labels[i], expected, rtol=1e-6)


def test_cutmix_pastes_a_box_and_the_labels_match_its_area():
    random, drawn = np.random.default_rng(0), None
    while drawn is None or not drawn[2][2] > drawn[2][0]:
        drawn = draws.mix(random, 5, 7, 0.0, 1.0)
    share, _, (top, left, bottom, right) = drawn
    smooth = LABELS * 0.9 + 0.1 / 6
    images, labels = mix(*drawn, labels=smooth)
    expected = IMAGES.copy()
    expected[:, top:bottom, left:right] = IMAGES[::-1, top:bottom, left:right]
    np.testing.assert_array_equal(images, expected)
    pasted = (images != IMAGES).any(axis=-1).mean(axis=(1, 2))
    np.testing.assert_allclose(pasted, 1 - share, atol=1e-6)
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        labels, share * smooth + (1 - share) * smooth[::-1], rtol=1e-5
    )
