"""`--feed tf.data`: its pixels are Pillow's, its batches those of the other feed."""

import dataclasses
import io
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_cbvit.images import BrokenImageError
from keras_cbvit.images import decode as decode_by_pillow
from recipes.data import tf_data
from recipes.data.batches import TrainingBatches
from recipes.data.images import Images, Split
from recipes.data.records import Records
from recipes.data.sources import load_dataset
from recipes.data.tf_data import TensorFlowFeed
from recipes.data.tf_decoding import decode
from recipes.options.classification import NO_AUGMENTATION, Augmentation, Data
from recipes.training.hand_over import hand_over
from tests.recipes import imagenet
from tests.recipes.data.image_files import SIDES, png
from tests.recipes.small import read_log

SERVICE = tf.data.experimental.service
ALL = {"random_resized_crop": True, "flip": True, "erasing": 0.5, "mixup_alpha": 0.8}


def photograph(height=90, width=120):
    """Smooth colors with edges, as a photograph has."""
    y, x = np.mgrid[:height, :width] / 10
    waves = [np.sin(x + y), np.cos(x * y / 9), np.sin(y) * np.cos(x)]
    image = np.stack(waves, -1) * 100 + 128
    image[20:40, 30:70] = (250, 10, 130)
    return image.astype("uint8")


def file(kind, mode="RGB", image=None, **options):
    stream = io.BytesIO()
    image = Image.fromarray(photograph() if image is None else image).convert(mode)
    image.save(stream, kind, **options)
    return stream.getvalue()


def exif(orientation, order):
    number = struct.pack(f"{order}HHHIHHI", 1, 274, 3, 1, orientation, 0, 0)
    start = b"MM\0*\0\0\0\x08" if order == ">" else b"II*\0\x08\0\0\0"
    return b"Exif\0\0" + start + number


def samples(bits, channels):
    return np.random.default_rng(bits).integers(0, 2**bits, (9, 13, channels))


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
PALETTE = np.random.default_rng(0).integers(0, 256, (4, 3))
FILES = {
    "RGB": (file("JPEG"), 0),
    "gray": (file("JPEG", "L"), 0),
    "CMYK": (file("JPEG", "CMYK"), 0),
    "progressive": (file("JPEG", progressive=True, quality=30), 0),
    "no subsampling": (file("JPEG", subsampling="4:4:4"), 0),
    "turned by XMP": (file("JPEG", xmp=XMP), 0),
    **{
        f"JPEG {way} {order}": (file("JPEG", exif=exif(way, order)), 0)
        for way in (*SIDES, 9)
        for order in "<>"
    },
    **{f"PNG {way}": (png(samples(8, 3), orientation=way), 0) for way in SIDES},
    **{f"gray {bits}": (png(samples(bits, 1), bits), 0) for bits in (1, 2, 4, 8)},
    "gray 16": (png(samples(16, 1), 16), 1),
    "RGB 16": (png(samples(16, 3), 16), 1),
    "palette": (png(samples(2, 1), 2, PALETTE), 0),
    "palette with alpha": (png(samples(2, 1), 2, PALETTE, b"\0\x80\xff\x10"), 1),
    "gray with a key": (png(samples(2, 1), 2, transparency=b"\0\1"), 0),
    "gray with alpha": (png(samples(8, 2)), 1),
    "RGBA": (png(samples(8, 4)), 1),
    "RGBA 16": (png(samples(16, 4), 16), 3),
}
in_graph = tf.function(decode, [tf.TensorSpec((), tf.string)])


@pytest.mark.parametrize("name", FILES)
def test_pictures_are_decoded_as_by_pillow(name):
    encoded, tolerance = FILES[name]
    expected = np.asarray(decode_by_pillow(encoded, name)).astype(int)
    found = in_graph(tf.constant(encoded)).numpy()
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance


NOT_DECODED = {
    "GIF": file("GIF"),
    "TIFF": file("TIFF"),
    "truncated": FILES["RGB"][0][:-900],
    "PNG without its end": FILES["RGBA"][0][:-60],
    "text": b"not an image, but longer than the header of one",
    "empty": b"",
}


@pytest.mark.parametrize("name", NOT_DECODED)
def test_what_it_does_not_decode_as_pillow_does_is_an_error(name):
    with pytest.raises(tf.errors.InvalidArgumentError):
        in_graph(tf.constant(NOT_DECODED[name]))


@pytest.mark.parametrize(
    "box", [(0, 0, 120, 90), (10, 20, 90, 50), (50, 10, 57, 19), (3, 0, 120, 61)]
)
def test_crops_are_resized_as_by_pillow(box):
    image = Image.fromarray(photograph()).crop(box)
    expected = np.asarray(image.resize((40, 32), Image.Resampling.BICUBIC))
    found = tf_data.resize(np.asarray(image).astype("float32"), (32, 40)).numpy()
    difference = np.abs(found - expected)
    assert difference.mean() < 0.3
    # Pillow rounds between width and height.
    assert np.quantile(difference, 0.99) <= 1
    assert difference.max() <= 4


def numbered(number, classes=5):
    """Images of one color each, which says which it is."""
    images = np.empty((number, 8, 12, 3), "uint8")
    images[:] = np.arange(number)[:, None, None, None]
    return Split(images, np.random.default_rng(0).integers(0, classes, number))


def training_batches(split, size, smoothing=0.0, seed=0, **policy):
    policy = dataclasses.replace(NO_AUGMENTATION, **policy)
    return TrainingBatches(split, 5, size, policy, smoothing, seed)


def read(feed, first, last):
    """Batches as NumPy arrays."""
    with hand_over(feed, first, last) as dataset:
        return list(dataset.take(last - first).as_numpy_iterator())


def indices(batch):
    return batch["images"][:, 0, 0, 0].tolist()


def test_each_image_is_in_an_epoch_once_with_its_label():
    split = numbered(24)
    batches = training_batches(split, 6, smoothing=0.1)
    found = read(TensorFlowFeed(batches), 4, 8)  # the second epoch
    seen = [index for batch, _ in found for index in indices(batch)]
    assert sorted(seen) == list(range(24))
    assert seen != sorted(seen)
    expected = batches.smooth(np.eye(5)[split.labels[seen]])
    np.testing.assert_allclose(np.concatenate([y for _, y in found]), expected, 1e-6)


def test_two_workers_make_each_batch_once():
    batches = training_batches(numbered(24), 6)
    expected = [indices(batch) for batch, _ in read(TensorFlowFeed(batches), 4, 8)]
    with workers(2) as address:
        # Nearly in order: later ones may come before.
        found = read(TensorFlowFeed(batches, address), 4, 24)
    found = [indices(batch) for batch, _ in found]
    assert [found.count(each) for each in expected] == [1, 1, 1, 1]


class workers:  # noqa: N801
    """A tf.data service in this process; no address for no workers."""

    def __init__(self, number):
        self.number = number

    def __enter__(self):
        if self.number is None:
            return None
        self.dispatcher = SERVICE.DispatchServer()
        address = self.dispatcher.target.partition("://")[2]
        config = SERVICE.WorkerConfig(dispatcher_address=address)
        self.workers = [SERVICE.WorkerServer(config) for _ in range(self.number)]
        return self.dispatcher.target

    def __exit__(self, *_):
        self.workers = self.dispatcher = None


def test_copies_stand_where_they_do_in_the_other_feed():
    batches = training_batches(numbered(20), 8, repeats=3)
    for step, (batch, _) in enumerate(read(TensorFlowFeed(batches), 0, 2)):
        found, other = indices(batch), batches.indices(step).tolist()
        assert [found.index(i) for i in found] == [other.index(i) for i in other]


@pytest.mark.parametrize("number", [None, 1])
def test_rand_augment_changes_the_images_alone_with_and_without_a_worker(number):
    size = {"image_size": (16, 16)}
    data = Data("imagenet2012", imagenet.FOLDER, test_split="validation", **size)
    split = load_dataset(data, originals=True).train
    whole = Augmentation()
    plain = dataclasses.replace(whole, rand_augment=0.0)
    with workers(number) as address:
        (one, labels), (other, other_labels) = (
            read(TensorFlowFeed(TrainingBatches(split, 1000, 12, p), address), 0, 1)[0]
            for p in (plain, whole)
        )
    assert one["images"].shape == other["images"].shape == (12, 16, 16, 3)
    assert one["images"].dtype == other["images"].dtype == np.uint8
    assert not np.array_equal(one["images"], other["images"])
    for name in ("share", "weight", "paste"):
        np.testing.assert_array_equal(one[name], other[name])
    np.testing.assert_array_equal(labels, other_labels)


def test_what_a_batch_holds_follows_from_seed_and_step():
    def batches_from(first, seed=1):
        feed = TensorFlowFeed(
            training_batches(numbered(20), 4, seed=seed, repeats=2, **ALL)
        )
        return read(feed, first, 8)

    for (one, labels), (other, other_labels) in zip(
        batches_from(0)[5:], batches_from(5), strict=True
    ):
        assert one.keys() == {"images", "erase", "share", "weight", "paste"}
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name])
        np.testing.assert_array_equal(labels, other_labels)
    epochs = [indices(batch) for batch, _ in batches_from(0)]
    assert epochs != [indices(batch) for batch, _ in batches_from(0, seed=2)]
    assert epochs[:5] != epochs[5:]


def test_labels_may_be_several():
    split = numbered(8)
    several = np.random.default_rng(0).random((8, 5)) < 0.5
    batches = training_batches(Split(split.images, several), 4, smoothing=0.2)
    for batch, labels in read(TensorFlowFeed(batches), 0, 2):
        expected = several[indices(batch)] * 0.8 + 0.1
        np.testing.assert_allclose(labels, expected, rtol=1e-6)


def test_mixing_is_drawn_as_in_the_other_feed():
    batches = training_batches(numbered(8), 4, mixup_alpha=0.8, cutmix_alpha=1.0)
    for step, (batch, _) in enumerate(read(TensorFlowFeed(batches), 0, 2)):
        for name in ("share", "weight", "paste"):
            np.testing.assert_array_equal(batch[name], batches.draw(step)[name])


def test_erased_boxes_are_filled_with_random_bytes():
    image = np.full((40, 60, 3), 7, "uint8")
    areas, inside = [], []
    for seed in range(300):
        erased, box = tf_data.erase(tf.constant(image), 0.25, (seed, 1))
        erased, (top, left, bottom, right) = erased.numpy(), box.numpy()
        areas.append((bottom - top) * (right - left) / (40 * 60))
        inside.append(erased[top:bottom, left:right].ravel())
        erased[top:bottom, left:right] = 7
        np.testing.assert_array_equal(erased, image)
    areas = np.array(areas)
    assert 0.18 < np.mean(areas > 0) < 0.32
    assert areas[areas > 0].min() > 0.015
    assert areas.max() < 0.35
    assert np.ptp(areas[areas > 0]) > 0.2
    noise = np.bincount(np.concatenate(inside), minlength=256)
    assert noise.min() > 0.8 * noise.mean()


def test_crops_and_flips_are_of_all_of_the_image():
    ramp = np.linspace(0, 255, 100).astype("uint8")
    image = np.repeat(np.broadcast_to(ramp, (80, 100))[..., None], 3, 2)
    data = Data(image_size=(16, 16))
    split = Split(Images([image] * 64, data, originals=True), np.zeros(64, "int64"))
    batches = training_batches(split, 64, random_resized_crop=True, flip=True)
    ((batch, _),) = read(TensorFlowFeed(batches), 0, 1)
    left, right = (batch["images"][:, 8, i, 0].astype(int) for i in (0, -1))
    assert 20 < np.sum(left > right) < 44
    assert np.minimum(left, right).min() < 30
    assert np.maximum(left, right).max() > 225
    # Half of the crops have less than 54 % of the area.
    assert 0.4 < np.median(np.abs(left - right)) / 255 < 0.9


def test_tfrecords_and_folders_are_read_by_place(tmp_path):
    test_labels = imagenet.write_folder(tmp_path)
    sources = {"image_size": (32, 32), "crop_fraction": 1.0}
    folder = Data(str(tmp_path), test_split="val", test_labels=test_labels, **sources)
    records = Data("imagenet2012", imagenet.FOLDER, test_split="validation", **sources)
    for data in (records, folder):
        train = load_dataset(data, originals=True).train
        assert isinstance(train.images.encoded, Records) == (data is records)
        policy = dataclasses.replace(NO_AUGMENTATION, random_resized_crop=True)
        batches = TrainingBatches(train, 1000, 24, policy)
        ((batch, labels),) = read(TensorFlowFeed(batches), 0, 1)
        numbers = imagenet.numbers_of(batch["images"])
        assert sorted(numbers) == list(range(24))
        # The folder has no other classes.
        classes = range(3) if data is folder else list(imagenet.CLASSES.values())
        expected = [classes[number // imagenet.PER_CLASS] for number in numbers]
        np.testing.assert_array_equal(labels.argmax(1), expected)


def test_broken_pictures_end_it_and_are_all_named(tmp_path):
    paths = []
    for number in range(12):
        paths.append(str(tmp_path / f"{number}.jpg"))
        content = FILES["RGB"][0]
        if number in (4, 9):
            content = NOT_DECODED["GIF" if number == 4 else "truncated"]
        with open(paths[-1], "wb") as stream:
            stream.write(content)
    data = Data(image_size=(8, 8))
    split = Split(
        Images(paths, data, paths.__getitem__, originals=True), np.zeros(12, "int64")
    )
    feed = TensorFlowFeed(training_batches(split, 4, random_resized_crop=True))
    with pytest.raises(
        BrokenImageError, match=r"cannot decode 2 of 12 .*/4.jpg, .*/9.jpg. Remove them"
    ):
        read(feed, 0, 3)


@pytest.mark.parametrize(
    ("policy", "service", "message"),
    [
        ({"shift": 4}, None, "shift=4 is not supported by --feed tf.data; use"),
        ({}, "localhost", "data_service='localhost' must be grpc://HOST:PORT"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(policy, service, message):
    with pytest.raises(ValueError, match=message):
        TensorFlowFeed(training_batches(numbered(8), 4, **policy), service)


@pytest.mark.parametrize("port", [1, 99999])
def test_a_service_that_is_not_there_is_one_sentence(port):
    batches = training_batches(numbered(8), 4)
    message = (
        rf"No tf.data service listens at grpc://localhost:{port} \(.*\); start its disp"
    )
    with pytest.raises(ConnectionError, match=message):
        TensorFlowFeed(batches, f"grpc://localhost:{port}")


def test_without_keras_cv_there_is_all_but_rand_augment(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    TensorFlowFeed(training_batches(numbered(8), 4, **ALL))
    with pytest.raises(ValueError, match="pip install keras-cv, or use --rand-aug"):
        TensorFlowFeed(training_batches(numbered(8), 4, rand_augment=9.0))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of the runs of `tf_data_runs.py`."""
    folder = tmp_path_factory.mktemp("tf_data")
    result = subprocess.run(
        [sys.executable, "-m", "tests.recipes.data.tf_data_runs", str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_two_devices_train_and_the_service_and_resuming_change_nothing(runs):
    names = ("loss", "val_loss", "val_ema_loss")
    alone, service = (
        [[epoch[name] for name in names] for epoch in read_log(runs / run)]
        for run in ("alone", "service")
    )
    assert alone[-1][1] < alone[0][1] - 0.03
    np.testing.assert_allclose(service, alone, rtol=1e-6)
    assert "data_wait" not in read_log(runs / "alone")[0]


@pytest.mark.slow
def test_the_whole_policy_trains_a_tiny_imagenet_on_two_devices(runs):
    (epoch,) = read_log(runs / "imagenet")
    assert 6 < epoch["loss"] < 8  # ln 1000 is 6.9
