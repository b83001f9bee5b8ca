import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

from keras_cbvit.images import BrokenImageError
from recipes.data.augment import augment
from recipes.data.batches import Batches, TrainingBatches
from recipes.data.feed import Feed
from recipes.data.images import Images, Split
from recipes.evaluation import measure
from recipes.options.classification import NO_AUGMENTATION, Augmentation, Data
from recipes.training.hand_over import evaluate, hand_over
from recipes.training.mixing import MixingModel


def split_of(number, size=(6, 8), classes=3):
    """Random images, each told from the others by its first pixel."""
    random = np.random.default_rng(number)
    images = random.integers(0, 256, (number, *size, 3), dtype="uint8")
    images[:, 0, 0] = np.arange(number)[:, None]
    return Split(images, random.integers(0, classes, number))


def decoded_at_each_use(split):
    """The same images, one by one."""
    data = Data(image_size=split.images.shape[1:3])
    return Split(Images(list(split.images), data), split.labels)


def training_batches(split, batch_size=4, smoothing=0.0, seed=0, **policy):
    policy = dataclasses.replace(NO_AUGMENTATION, **policy)
    return TrainingBatches(split, 3, batch_size, policy, smoothing, seed)


def numbers(images):
    return ops.convert_to_numpy(images)[:, 0, 0, 0].tolist()


def as_numpy(batch):
    drawn, labels = batch
    return {name: ops.convert_to_numpy(x) for name, x in drawn.items()}, labels


def assert_same(one, other):
    (one, labels), (other, other_labels) = as_numpy(one), as_numpy(other)
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(other[name], values)
    np.testing.assert_array_equal(other_labels, labels)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Photographs of different sizes on disk, the third of them broken."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    paths = []
    for i in range(12):
        size = (20 + i, 30 - i)
        low = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype="uint8"))
        paths.append(folder / f"{i}.jpg")
        low.resize(size).save(paths[-1])
    paths[2].write_bytes(paths[2].read_bytes()[:300])
    data = Data(image_size=(16, 16))
    names = [str(path) for path in paths]
    pictures = Images(paths, data, names.__getitem__, originals=True)
    return Split(pictures, np.arange(12) % 3)


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
    found = evaluate(model, Batches(split, 3, 4))

    logits = split.images.reshape(number, -1) / 255 @ kernel.astype("float64")
    log_sums = np.log(np.exp(logits).sum(axis=1))
    losses = log_sums - logits[np.arange(number), split.labels]
    assert found["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    right = (logits.argmax(axis=1) == split.labels).mean()
    assert found["accuracy"] == pytest.approx(right, rel=1e-6)


def test_labels_beyond_the_classes_are_refused():
    split = Split(np.zeros((2, 8, 8, 3), "uint8"), np.array([-1, 3]))
    with pytest.raises(ValueError, match="range from -1 to 3, but the 3 classes are"):
        Batches(split, 3, 2)


def test_no_images_are_refused():
    split = Split(np.zeros((0, 8, 8, 3), "uint8"), np.zeros(0, "int64"))
    with pytest.raises(ValueError, match="contains no images"):
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
        batch, labels = batches[step]
        expected = split.labels[numbers(batch["images"])]
        np.testing.assert_array_equal(labels.argmax(axis=1), expected)


def test_each_training_image_comes_at_most_once_per_epoch():
    batches = training_batches(split_of(11), batch_size=4)
    assert batches.steps_per_epoch == 2
    for epoch in range(3):
        seen = numbers(batches[2 * epoch][0]["images"])
        seen += numbers(batches[2 * epoch + 1][0]["images"])
        assert len(set(seen)) == len(seen) == 8


def test_each_epoch_has_an_order_of_its_own():
    batches = training_batches(split_of(40), batch_size=40)
    orders = [numbers(batches[step][0]["images"]) for step in range(3)]
    assert [sorted(order) for order in orders] == [list(range(40))] * 3
    assert orders[0] != orders[1] != orders[2] != orders[0]


FULL = dataclasses.asdict(Augmentation(shift=1, random_resized_crop=False))


def test_the_same_seed_and_step_give_the_same_batch():
    one, other, third = (
        training_batches(split_of(16), 8, seed=seed, **FULL) for seed in (5, 5, 6)
    )
    other[7]  # whatever was asked before
    for step in (3, 0):
        assert_same(other[step], one[step])
        assert not np.array_equal(third[step][0]["images"], one[step][0]["images"])


def test_each_step_draws_anew():
    batches = training_batches(split_of(16), 8, **FULL)
    first, second, next_epoch = (
        batches._draw(np.random.default_rng((0, step))) for step in (0, 1, 2)
    )
    for name in ("shift", "operations", "strengths", "noise_seed", "share"):
        assert not np.array_equal(first[name], second[name])
        assert not np.array_equal(first[name], next_epoch[name])


def test_reading_ahead_gives_the_same_batches_in_order():
    batches = training_batches(split_of(16), **FULL)
    read = list(Feed(batches, 0).read(3, 13))
    assert len(read) == 10
    for step, batch in enumerate(read, 3):
        assert_same(batch, batches[step])


def test_copies_of_an_image_are_in_one_batch_and_augmented_differently():
    batches = training_batches(
        split_of(40),
        batch_size=12,
        repeats=3,
        **{key: FULL[key] for key in ("flip", "rand_augment", "shift")},
    )
    assert batches.steps_per_epoch == 3  # DeiT counts the repeats
    seen = []
    for step in range(3):
        drawn = batches._draw(np.random.default_rng((0, step)))
        found, counts = np.unique(batches.indices(step), return_counts=True)
        assert counts.tolist() == [3, 3, 3, 3]
        seen += found.tolist()
        draws = np.column_stack([drawn[n] for n in ("shift", "operations", "flip")])
        assert len(np.unique(draws, axis=0)) == 12
    assert len(set(seen)) == 12


def test_a_batch_that_the_repeats_do_not_divide_is_full_all_the_same():
    batches = training_batches(split_of(40), batch_size=10, repeats=3)
    _, counts = np.unique(batches.indices(0), return_counts=True)
    assert sorted(counts.tolist()) == [2, 2, 3, 3]


def test_processes_share_a_batch():
    split = split_of(16)
    policy = dataclasses.replace(NO_AUGMENTATION, shift=2, mixup_alpha=0.8)
    parts = [TrainingBatches(split, 3, 8, policy, part=(i, 2)) for i in range(2)]
    whole, labels = as_numpy(TrainingBatches(split, 3, 8, policy)[1])
    first, second = (as_numpy(part[1]) for part in parts)
    for name, values in whole.items():
        together = np.concatenate([first[0][name], second[0][name]])
        np.testing.assert_array_equal(together, values)
    np.testing.assert_array_equal(np.concatenate([first[1], second[1]]), labels)
    test = [Batches(split, 3, 8, part=(i, 2)) for i in range(2)]
    assert numbers(test[0][1][0]) + numbers(test[1][1][0]) == list(range(8, 16))


@pytest.mark.any_backend
def test_each_image_is_mirrored_with_probability_one_half_whatever_the_others_are():
    split = split_of(1000)
    split.images[:, 0, :, 0] = np.arange(8)  # the first row tells how an image lies
    batches = training_batches(split, batch_size=1000, flip=True)
    flips = [batches[step][0]["images"][:, 0, 0, 0] == 7 for step in range(16)]
    flips = np.concatenate(flips)
    # Within five standard deviations of 16,000 draws.
    assert flips.mean() == pytest.approx(1 / 2, abs=0.02)
    for apart in (1, 2, 1000):
        both = flips[apart:] & flips[:-apart]
        assert both.mean() == pytest.approx(1 / 4, abs=0.02)


def test_a_batch_of_more_than_all_images_is_refused():
    with pytest.raises(
        ValueError, match="global_batch_size=9 exceeds the number of training images, 8"
    ):
        training_batches(split_of(8), batch_size=9)


# Pictures


def test_pictures_are_cropped_on_the_host_and_nothing_of_it_is_left_for_the_device(
    pictures,
):
    batches = TrainingBatches(pictures, 3, 6, Augmentation(repeats=1))
    with pytest.warns(UserWarning, match=r"Skipped: .*2\.jpg is not a readable"):
        read = list(Feed(batches, 0).read(0, 4))
    for batch, labels in read:
        assert batch["images"].shape == (6, 16, 16, 3)
        assert batch.keys() == {"images", "erase", "share", "weight", "paste"}
        assert labels.shape == (6, 3)
    assert not np.array_equal(read[0][0]["images"], read[2][0]["images"])


def test_copies_of_a_picture_are_decoded_once_and_cropped_each(pictures, monkeypatch):
    opened = []

    def open_(self, index):
        opened.append(int(index))
        return picture(self, index)

    picture = Images.open
    monkeypatch.setattr(Images, "open", open_)
    policy = Augmentation(repeats=3, erasing=0.0)
    batches = TrainingBatches(pictures, 3, 9, policy)
    step = next(s for s in range(9) if 2 not in batches.indices(s))
    batch, _ = batches[step]
    indices = batches.indices(step)
    assert sorted(opened) == sorted(set(indices.tolist()))
    assert batch["images"].dtype == np.uint8
    assert len(np.unique(batch["images"].reshape(9, -1), axis=0)) == 9

    # Each copy is what the picture alone becomes by the copy's numbers.
    drawn = batches._draw(np.random.default_rng((0, step)))
    for row in range(9):
        numbers = {name: values[row] for name, values in drawn.items()}
        alone = augment(picture(pictures.images, indices[row]), (16, 16), numbers)
        np.testing.assert_array_equal(batch["images"][row], alone)


def test_pictures_are_erased_with_bytes_that_follow_from_the_step(pictures):
    policy = dataclasses.replace(NO_AUGMENTATION, random_resized_crop=True)
    erased, whole = (
        TrainingBatches(pictures, 3, 6, dataclasses.replace(policy, erasing=erasing))
        for erasing in (1.0, 0.0)
    )
    step = next(s for s in range(9) if 2 not in erased.indices(s))
    (batch, _), (again, _) = erased[step], erased[step]
    images = batch["images"]
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(again["images"], images)
    changed = (images != whole[step][0]["images"]).any(axis=-1)
    shares = changed.mean(axis=(1, 2))
    assert np.all((shares > 0.01) & (shares < 0.4))
    for each, (top, left, bottom, right) in zip(changed, batch["erase"], strict=True):
        each[top:bottom, left:right] = False
    assert not changed.any()


def test_the_next_picture_takes_the_place_of_a_broken_one(pictures):
    batches = TrainingBatches(pictures, 3, 12, NO_AUGMENTATION)
    with pytest.warns(UserWarning, match=r"2\.jpg"):
        batch, labels = batches[0]
    assert list(batches.broken) == [2]
    order = batches.indices(0)
    expected = np.where(order == 2, 3, order)
    np.testing.assert_array_equal(labels.argmax(axis=1), expected % 3)
    at = dict(zip(order, batch["images"], strict=True))
    np.testing.assert_array_equal(at[2], pictures.images[3])
    np.testing.assert_array_equal(at[7], pictures.images[7])


def test_a_broken_test_picture_does_not_count(pictures):
    batches = Batches(pictures, 3, 8)
    with pytest.warns(UserWarning, match=r"2\.jpg"):
        weights = np.concatenate([batches[step][2] for step in range(2)])
    assert np.flatnonzero(weights == 0).tolist() == [2, 12, 13, 14, 15]
    assert list(batches.broken) == [2]


@pytest.mark.parametrize("kind", ["training", "test"])
def test_strict_stops_at_a_broken_picture(pictures, kind):
    if kind == "test":
        batches = Batches(pictures, 3, 12, strict=True)
    else:
        batches = TrainingBatches(pictures, 3, 12, NO_AUGMENTATION, strict=True)
    with pytest.raises(BrokenImageError, match=r"2\.jpg is not a readable image"):
        batches[0]


# What `fit` sees


@pytest.mark.parametrize("prepare", [lambda split: split, decoded_at_each_use])
def test_fit_sees_each_batch_of_each_epoch_in_order(prepare):
    batches = training_batches(prepare(split_of(13)), flip=True)
    random = np.random.default_rng(0)
    kernel = random.normal(size=(144, 3)).astype("float32")
    inputs = keras.Input((6, 8, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    dense = keras.layers.Dense(3)
    model = MixingModel(keras.Model(inputs, dense(x)))
    dense.set_weights([kernel, np.zeros(3)])
    # This loss tells images and labels from any others.
    model.compile(
        optimizer=keras.optimizers.SGD(0.0),
        loss=lambda labels, outputs: ops.sum(labels * outputs, axis=-1),
    )
    model.evaluate(np.zeros((4, 6, 8, 3)), np.zeros((4, 3)), verbose=0)

    running = []
    watching = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda step, logs: running.append(logs["loss"]),
    )
    with hand_over(Feed(batches, 0), 0, 6) as data:
        model.fit(
            data,
            epochs=2,
            steps_per_epoch=3,
            shuffle=False,
            verbose=0,
            callbacks=[watching],
        )

    expected = []
    for epoch in (0, 1):
        sums = []
        for step in range(3):
            batch, labels = as_numpy(batches[3 * epoch + step])
            outputs = batch["images"].reshape(4, -1) / 255 @ kernel
            sums.append((labels * outputs).sum(axis=-1).mean())
        expected += list(np.cumsum(sums) / [1, 2, 3])  # Keras logs the mean so far
    assert running == pytest.approx(expected, rel=1e-4)
    assert len(set(np.round(expected, 3))) == 6


def test_a_broken_picture_is_neither_right_nor_wrong(pictures):
    inputs = keras.Input((16, 16, 3))
    outputs = keras.layers.Dense(3, use_bias=False)(
        keras.layers.GlobalAveragePooling2D()(inputs)
    )
    model = keras.Model(inputs, outputs)
    # Always the third class, that of the broken picture among others.
    model.set_weights([np.array([[-1, -1, 1]] * 3, "float32")])
    with pytest.warns(UserWarning, match=r"2\.jpg"):
        measured = measure(model, pictures, batch_size=5)
    assert (measured["right"], measured["images"]) == (3, 11)
