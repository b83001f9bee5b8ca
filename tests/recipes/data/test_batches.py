import keras
import numpy as np
import pytest
from keras import ops

from recipes.data.batches import Batches, TrainingBatches, augment
from recipes.data.sources import Pictures, Split
from recipes.experiment import Data


def split_of(number, size=(6, 8), classes=3):
    """Random images, each told from the others by its first pixel."""
    random = np.random.default_rng(number)
    images = random.integers(0, 256, (number, *size, 3), dtype="uint8")
    images[:, 0, 0] = np.arange(number)[:, None]
    return Split(images, random.integers(0, classes, number))


def decoded_at_each_use(split):
    """The same images, one by one."""
    data = Data(image_size=split.images.shape[1:3])
    return Split(Pictures(list(split.images), data), split.labels)


def training_batches(split, batch_size=4, smoothing=0.0, seed=0, **data):
    data = Data(**{"flip": False, "shift": 0, **data})
    return TrainingBatches(split, 3, batch_size, data, smoothing, seed)


def numbers(images):
    return images[:, 0, 0, 0].tolist()


# Every test image exactly once


@pytest.mark.parametrize(("number", "batch_size"), [(11, 4), (12, 4), (3, 8), (1, 1)])
def test_every_image_counts_once_and_fillers_not_at_all(number, batch_size):
    split = split_of(number)
    batches = Batches(split, 3, batch_size)
    seen, labels = [], []
    for step in range(len(batches)):
        images, one_hot, weights = batches[step]
        assert len(images) == len(one_hot) == len(weights) == batch_size
        np.testing.assert_array_equal(one_hot.sum(axis=1), 1)
        seen += numbers(images[weights > 0])
        labels += one_hot.argmax(axis=1)[weights > 0].tolist()
    assert seen == list(range(number))
    assert labels == split.labels.tolist()


@pytest.mark.parametrize("number", [10, 12])
def test_evaluate_gives_the_mean_over_exactly_the_images(number):
    split = split_of(number)
    model = keras.Sequential(
        [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.compile(
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    model.build((None, 6, 8, 3))
    kernel = np.random.default_rng(0).normal(size=(144, 3)).astype("float32")
    model.set_weights([kernel, np.zeros(3)])
    found = model.evaluate(Batches(split, 3, 4), verbose=0, return_dict=True)

    logits = split.images.reshape(number, -1) / 255 @ kernel.astype("float64")
    log_sums = np.log(np.exp(logits).sum(axis=1))
    losses = log_sums - logits[np.arange(number), split.labels]
    assert found["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    right = (logits.argmax(axis=1) == split.labels).mean()
    assert found["accuracy"] == pytest.approx(right, rel=1e-6)


def test_labels_beyond_the_classes_are_refused():
    split = Split(np.zeros((2, 8, 8, 3), "uint8"), np.array([-1, 3]))
    with pytest.raises(ValueError, match="go from -1 to 3, but the 3 classes from 0"):
        Batches(split, 3, 2)


def test_no_images_are_refused():
    split = Split(np.zeros((0, 8, 8, 3), "uint8"), np.zeros(0, "int64"))
    with pytest.raises(ValueError, match="There are no images"):
        Batches(split, 3, 2)


# Training batches


def test_labels_are_smoothed_as_in_deit():
    _, labels = training_batches(split_of(8), smoothing=0.1)[0]
    np.testing.assert_allclose(labels.max(axis=1), 0.9 + 0.1 / 3, rtol=1e-6)
    np.testing.assert_allclose(labels.min(axis=1), 0.1 / 3, rtol=1e-6)
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)


def test_images_keep_their_labels_when_shuffled():
    split = split_of(8)
    batches = training_batches(split)
    for step in range(2):
        images, labels = batches[step]
        expected = split.labels[numbers(images)]
        np.testing.assert_array_equal(labels.argmax(axis=1), expected)


def test_each_training_image_comes_at_most_once_per_epoch():
    batches = training_batches(split_of(11), batch_size=4)
    seen = [
        number for step in range(len(batches)) for number in numbers(batches[step][0])
    ]
    assert len(batches) == 2
    assert len(set(seen)) == len(seen) == 8


def test_each_epoch_has_an_order_of_its_own():
    batches = training_batches(split_of(40), batch_size=40)
    orders = []
    for epoch in range(3):
        batches.begin_epoch(epoch)
        orders.append(numbers(batches[0][0]))
    assert [sorted(order) for order in orders] == [list(range(40))] * 3
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_the_same_seed_epoch_and_step_give_the_same_pixels():
    options = {"flip": True, "shift": 2, "batch_size": 8}
    one, other, third = (
        training_batches(split_of(16), seed=seed, **options) for seed in (5, 5, 6)
    )
    other.begin_epoch(3)  # whatever was asked before
    assert not np.array_equal(other[0][0], one[0][0])
    other.begin_epoch(0)
    for step in (1, 0):
        np.testing.assert_array_equal(other[step][0], one[step][0])
        np.testing.assert_array_equal(other[step][1], one[step][1])
        assert not np.array_equal(third[step][0], one[step][0])


def test_an_image_is_augmented_anew_at_each_step_of_each_epoch():
    same = Split(np.repeat(split_of(1).images, 5, axis=0), np.zeros(5, "int64"))
    batches = training_batches(same, batch_size=1, shift=3)
    for epochs, steps in (([0], range(5)), (range(5), [0])):
        seen = set()
        for epoch in epochs:
            batches.begin_epoch(epoch)
            seen |= {batches[step][0].tobytes() for step in steps}
        assert len(seen) > 2


def test_a_batch_of_more_than_all_images_is_refused():
    with pytest.raises(
        ValueError, match="global_batch_size=9 is more than the 8 training images"
    ):
        training_batches(split_of(8), batch_size=9)


# Augmentation


def test_a_flip_mirrors_some_images_and_leaves_the_others():
    images = split_of(400).images
    flipped = augment(images, np.random.default_rng(0), flip=True, shift=0)
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (flipped == images).all(axis=(1, 2, 3))
    assert (mirrored != same).all()
    assert 160 < mirrored.sum() < 240  # 200 ± 4 standard deviations


def shifted(image, down, right):
    """Brute force: pixel by pixel, black where nothing was."""
    result = np.zeros_like(image)
    height, width, _ = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                result[row, column] = image[row - down, column - right]
    return result


def test_a_shift_moves_each_image_by_up_to_so_many_pixels():
    images = split_of(200).images + 1  # no black pixels but those of the shift
    moved = augment(images, np.random.default_rng(0), flip=False, shift=2)
    steps = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    found = set()
    for image, result in zip(images, moved, strict=True):
        fitting = [s for s in steps if np.array_equal(shifted(image, *s), result)]
        assert len(fitting) == 1
        found.add(fitting[0])
    assert found == set(steps)


def test_without_flip_and_shift_images_stay_as_they_are():
    images = split_of(8).images
    result = augment(images, np.random.default_rng(0), flip=False, shift=0)
    np.testing.assert_array_equal(result, images)


# What `fit` sees


@pytest.mark.parametrize("prepare", [lambda split: split, decoded_at_each_use])
def test_fit_sees_each_batch_of_each_epoch_in_order(prepare):
    batches = training_batches(prepare(split_of(13)), flip=True, shift=1)
    random = np.random.default_rng(0)
    kernel = random.normal(size=(144, 3)).astype("float32")
    model = keras.Sequential(
        [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    # This loss tells images and labels from any others.
    model.compile(
        optimizer=keras.optimizers.SGD(0.0),
        loss=lambda labels, outputs: ops.sum(labels * outputs, axis=-1),
    )
    model.build((None, 6, 8, 3))
    model.set_weights([kernel, np.zeros(3)])

    running = []
    model.fit(
        batches,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_epoch_begin=batches.begin_epoch,
                on_train_batch_end=lambda step, logs: running.append(logs["loss"]),
            )
        ],
    )

    expected = []
    for epoch in (0, 1):
        batches.begin_epoch(epoch)
        sums = [
            (labels * (images.reshape(4, -1) / 255 @ kernel)).sum(axis=-1).mean()
            for images, labels in (batches[step] for step in range(3))
        ]
        expected += list(np.cumsum(sums) / [1, 2, 3])  # Keras logs the mean so far
    assert running == pytest.approx(expected, rel=1e-4)
    assert len(set(np.round(expected, 3))) == 6
