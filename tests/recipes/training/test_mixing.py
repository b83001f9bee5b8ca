"""Mixup and CutMix, against brute force."""

import numpy as np
from keras import ops

from recipes.data import draws
from recipes.training import mixing

IMAGES = np.random.default_rng(0).integers(1, 256, (6, 5, 7, 3), dtype="uint8")
LABELS = np.eye(6, dtype="float32")


def mixed(labels=LABELS, **drawn):
    images, labels = mixing.mix({"images": IMAGES, **drawn}, labels)
    return ops.convert_to_numpy(images), ops.convert_to_numpy(labels)


def test_a_batch_without_draws_stays_as_it_is():
    images, labels = mixed()
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


def mix(share, weight, box, labels=LABELS):
    return mixed(
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
