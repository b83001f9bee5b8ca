import concurrent.futures
import io
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_cbvit
from keras_cbvit import Classifier, Preprocessing
from keras_cbvit.analysis.outputs import observe
from keras_cbvit.images import BrokenImageError
from recipes.data.images import Images
from recipes.options.classification import Data
from tests.test_published import waves_of
from tests.tiny import fill, tiny

GOLDEN = json.loads((Path(__file__).parent / "data" / "published.json").read_text())
NAME = "vitcb_mini.cifar10"
NAMES = ("cat", "dog", "fox")


@pytest.fixture(autouse=True)
def no_other_place(monkeypatch):
    monkeypatch.delenv("KERAS_CBVIT_WEIGHTS", raising=False)


@pytest.fixture(scope="module")
def model():
    model = fill(tiny())
    model.class_names = NAMES
    return model


def photos(number):
    """Images of different sizes."""
    random = np.random.default_rng(0)
    return [
        random.integers(0, 256, (random.integers(5, 40), random.integers(5, 40), 3))
        for _ in range(number)
    ]


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def test_published_weights_name_what_they_did():
    classifier = Classifier(NAME)
    found = classifier(waves_of((32, 32, 3)), top=10)
    names = keras_cbvit.class_names(NAME)
    for row, expected in zip(found, GOLDEN[NAME], strict=True):
        probabilities = dict(row)
        np.testing.assert_allclose(
            [probabilities[name] for name in names], expected, rtol=0, atol=1e-5
        )
        assert row[0][0] == names[int(np.argmax(expected))]


def test_all_kinds_of_one_image_give_the_same(model, tmp_path):
    pixels = photos(1)[0].astype("uint8")
    image = Image.fromarray(pixels)
    path = tmp_path / "x.png"
    path.write_bytes(encoded(image))
    classifier = Classifier(model)
    kinds = [path, str(path), path.read_bytes(), image, pixels, pixels.astype("int64")]
    first, *others = [classifier(kind, top=3) for kind in kinds]
    assert [name for name, _ in first] != []
    assert sum(value for _, value in first) == pytest.approx(1, abs=1e-5)
    assert all(other == first for other in others)


def test_images_are_the_recipes_for_evaluation(tmp_path):
    """Bit for bit, as the record says."""
    how = Preprocessing(image_size=[8, 12], crop_fraction=0.875)
    paths = []
    for i, pixels in enumerate(photos(3)):
        paths.append(tmp_path / f"{i}.png")
        paths[-1].write_bytes(encoded(Image.fromarray(pixels.astype("uint8"))))
    data = Data(dataset="x", image_size=(8, 12), crop_fraction=0.875)
    expected = Images(paths, data)
    classifier = Classifier(tiny(), class_names=NAMES, preprocessing=how)
    for path, pixels in zip(paths, expected, strict=True):
        np.testing.assert_array_equal(classifier.preprocess(path), pixels)


def test_batches_give_what_the_model_predicts(model):
    given = photos(7)
    classifier = Classifier(model)
    batch = np.stack([classifier.preprocess(each) for each in given])
    expected = model.predict(batch, verbose=0)
    for size in (1, 3, 32):
        found = classifier(given, top=3, batch_size=size)
        assert len(found) == 7
        for row, values in zip(found, expected, strict=True):
            ordered = [NAMES[i] for i in np.argsort(-values)]
            assert [name for name, _ in row] == ordered
            np.testing.assert_allclose(
                [value for _, value in row], np.sort(values)[::-1], rtol=0, atol=1e-6
            )
    assert classifier(given[2], top=1) == [classifier(given, top=1)[2][0]]


def test_logits_become_probabilities(model):
    logits = fill(tiny(classifier_activation=None))
    logits.set_weights(model.get_weights())
    given = photos(2)
    expected = Classifier(model)(given)
    for row, wanted in zip(
        Classifier(logits, class_names=NAMES)(given), expected, strict=True
    ):
        assert [name for name, _ in row] == [name for name, _ in wanted]
        np.testing.assert_allclose(
            [p for _, p in row], [p for _, p in wanted], rtol=0, atol=1e-5
        )


def test_what_a_model_does_not_normalize_is_normalized(model):
    bare = fill(tiny(include_preprocessing=False))
    bare.set_weights(model.get_weights())
    given = photos(2)
    expected = Classifier(model)(given)
    for row, wanted in zip(
        Classifier(bare, class_names=NAMES)(given), expected, strict=True
    ):
        np.testing.assert_allclose(
            [p for _, p in row], [p for _, p in wanted], rtol=0, atol=1e-5
        )


def test_weights_that_change_are_used(model):
    changed = fill(tiny(), seed=0)
    classifier = Classifier(changed, class_names=NAMES)
    image = photos(1)[0]
    before = classifier(image)
    fill(changed, seed=5)
    after = Classifier(changed, class_names=NAMES)(image)
    assert classifier(image) == after != before


def test_an_image_takes_one_run_of_a_model_that_is_compiled_once():
    classifier = Classifier(fill(tiny()), class_names=NAMES)
    image, runs = photos(1)[0], []
    with observe(classifier.model.get_layer("pool"), lambda *_: runs.append(1)):
        classifier(image)
        first = len(runs)
        for _ in range(3):
            classifier(image)
    compiles = keras.backend.backend() in ("tensorflow", "jax")
    assert len(runs) - first == (0 if compiles else 3)


def test_threads_share_a_classifier(model):
    classifier = Classifier(model)
    given = photos(6)
    expected = [classifier(each) for each in given]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for _ in range(5):
            assert list(pool.map(classifier, given)) == expected


def test_a_model_of_any_size_takes_its_natural_one():
    model = tiny(input_shape=(None, None, 3), position_grid=(2, 3))
    classifier = Classifier(model, class_names=NAMES)
    assert classifier.preprocessing.image_size == [8, 12]
    larger = Preprocessing(image_size=[16, 8])
    classifier = Classifier(model, class_names=NAMES, preprocessing=larger)
    assert classifier.preprocess(photos(1)[0]).shape == (16, 8, 3)


def test_a_file_that_is_no_image_is_named(model, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    classifier = Classifier(model)
    with pytest.raises(BrokenImageError, match="notes.txt is not a readable image"):
        classifier([photos(1)[0], text])
    with pytest.raises(BrokenImageError, match="^Image 1 is not a readable image"):
        classifier([photos(1)[0], b"no image"])
    message = r"^The image is not a readable image \(damaged or not in a supported"
    with pytest.raises(BrokenImageError, match=message):
        classifier(b"no image")
    with pytest.raises(BrokenImageError, match="^The image is of type int, but must"):
        classifier(5)
    with pytest.raises(FileNotFoundError):
        classifier(tmp_path / "missing.jpg")


@pytest.mark.any_backend
def test_no_images_are_refused(model):
    for nothing in ([], (), np.zeros((0, 8, 12, 3), "uint8")):
        with pytest.raises(ValueError, match="^images is empty"):
            Classifier(model)(nothing)


def of_shape(*shape):
    inputs = keras.Input(shape)
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, "softmax")(x), name="other")


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "build, options, message",
    [
        (tiny, {}, "has no class names; set model.class_names"),
        (tiny, {"class_names": ["a"]}, "class_names has 1 names, but the model pred"),
        (lambda: tiny(classes=None, include_top=False), {}, "has no classification h"),
        (lambda: of_shape(8, 8, 4), {}, r"takes inputs of shape \(None, 8, 8, 4\)"),
        (lambda: keras.Sequential([]), {}, r"takes inputs of shape None; Classifier"),
        (
            lambda: of_shape(None, None, 3),
            {"class_names": ["a", "b"]},
            r"any size; set one, for instance with preprocessing=keras_cbvit\.Prep",
        ),
        (
            tiny,
            {"class_names": NAMES, "preprocessing": Preprocessing([8, 8])},
            r"image_size=\[8, 8\] must be that of",
        ),
        (
            tiny,
            {"class_names": NAMES, "preprocessing": Preprocessing(crop_fraction=2.0)},
            "crop_fraction=2.0 must be more than 0 and at most 1.",
        ),
        (
            tiny,
            {
                "class_names": NAMES,
                "preprocessing": Preprocessing(interpolation="cubic"),
            },
            "interpolation='cubic' must be one of nearest, ",
        ),
    ],
)
def test_what_cannot_work_is_refused(build, options, message):
    with pytest.raises(ValueError, match=message):
        Classifier(build(), **options)


def of_any_size():
    return tiny(input_shape=(None, None, 3), position_grid=(2, 3))


def without_normalization():
    return tiny(include_preprocessing=False)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "build, how, message",
    [
        (
            tiny,
            {"image_size": [8, 12]},
            "^preprocessing={'image_size': .* must be a ",
        ),
        (tiny, Preprocessing(32), "^image_size=32 must be two whole numbers"),
        (tiny, Preprocessing(["a", 32]), "^image_size='a' must be a whole number"),
        (tiny, Preprocessing([8.0, 12]), "^image_size=8.0 must be a whole number"),
        (of_any_size, Preprocessing([8, 8, 3]), "^image_size=.* must be two whole num"),
        (of_any_size, Preprocessing([0, 8]), "^image_size=0 must be a whole number"),
        (of_any_size, Preprocessing([8, 10]), "must be multiples of 4, the patch size"),
        (tiny, Preprocessing(crop_fraction="a"), "^crop_fraction='a' must be a number"),
        (tiny, Preprocessing(model_normalizes=0), "^model_normalizes=0 is unknown"),
        (
            tiny,
            Preprocessing(model_normalizes=False),
            "^model_normalizes=False must be True",
        ),
        (
            without_normalization,
            Preprocessing(),
            "^model_normalizes=True must be False",
        ),
        (
            without_normalization,
            Preprocessing(model_normalizes=False),
            r"^mean=\[\] must have 3 numbers, for RGB.",
        ),
        (
            without_normalization,
            Preprocessing(model_normalizes=False, mean=[0, 0, 0], std=[1, 0, 1]),
            "^std=0 must be at least 0.001.",
        ),
    ],
)
def test_preprocessing_that_cannot_work_is_refused(build, how, message):
    with pytest.raises(ValueError, match=message):
        Classifier(build(), class_names=NAMES, preprocessing=how)


@pytest.mark.any_backend
def test_a_segmentation_model_is_refused():
    with pytest.raises(ValueError, match="is a segmentation model, not a classifier"):
        Classifier("upernet_vit_mini.camvid_mini")
