import dataclasses
import json

import numpy as np
import pytest

from keras_cbvit.pretrained.imagenet import synsets
from recipes.data.folders import MissingDatasetError
from recipes.evaluation import measure
from recipes.evaluation.classifiers import Classifier
from recipes.evaluation.matching import match_classes
from recipes.evaluation.sets import data_of, load_set
from tests.recipes import imagenet
from tests.recipes.evaluation.imagenet_sets import (
    FOLDER,
    IMAGENET_A,
    IMAGENET_V2,
    REAL_LABELS,
    model_that_answers,
    write_classes,
    write_validation,
)

pytestmark = pytest.mark.any_backend


def load(name, real_labels=None, **changes):
    data = dataclasses.replace(
        data_of(name, real_labels), data_dir=FOLDER, image_size=(8, 8), **changes
    )
    return load_set(name, data, real_labels)


def measured(name, answers, above=None, names=None, **options):
    """What is measured of a model that answers so, and what it says to be of."""
    model = model_that_answers(answers, above)
    classifier = Classifier("a model", model, names)
    split, model, _, description = match_classes(
        classifier, name, load(name, **options)
    )
    return measure(model, split), description


def labels_of(dataset):
    """The label of each picture by its number."""
    numbers = imagenet.numbers_of(dataset.test.images)
    return dict(zip(numbers, dataset.test.labels.tolist(), strict=True))


def test_imagenet_is_the_validation_split_cropped_as_by_deit():
    data = data_of("imagenet")
    assert (data.dataset, data.test_split) == ("imagenet2012", "validation")
    assert data.crop_fraction == 0.875
    dataset = load("imagenet")
    assert labels_of(dataset) == dict(enumerate(imagenet.VALIDATION_LABELS))
    assert dataset.class_names == synsets()
    right = {0: 65, 1: 1, 2: 230, 3: 3, 4: 516}
    found, description = measured("imagenet", right)
    assert (found["right"], found["images"]) == (3, 5)
    assert description == "imagenet2012 (TFDS 5.1.0)"


def test_imagenet_from_a_folder_of_some_of_its_classes(tmp_path):
    write_classes(tmp_path, IMAGENET_A)
    # The picture of the second of three folders is of class 230 of 1000.
    found, description = measured(
        f"imagenet={tmp_path}", {1: 0, 2: 230, 3: 231, 4: 1, 5: 999}
    )
    assert (found["right"], found["images"]) == (3, 5)
    assert description == f"imagenet in {tmp_path}"


@pytest.mark.parametrize("place", ["tfds", "folder"])
def test_the_folders_of_imagenet_v2_are_numbers_of_classes(place, tmp_path):
    name = "imagenet-v2"
    if place == "folder":
        name += f"={write_classes(tmp_path, IMAGENET_V2)}"
    found, description = measured(name, {1: 2, 2: 3, 3: 10, 4: 101})
    assert (found["right"], found["images"]) == (2, 4)
    assert description in (
        "imagenet_v2 (TFDS 3.0.0)",
        f"imagenet-v2 in {tmp_path}",
    )


@pytest.mark.parametrize("place", ["tfds", "folder"])
def test_imagenet_a_is_decided_among_its_own_classes(place, tmp_path):
    name = "imagenet-a"
    if place == "folder":
        name += f"={write_classes(tmp_path, IMAGENET_A)}"
    # Pictures 2 and 3 are both nearest to 2.4, picture 4 to 5. Above all is a class
    # that does not occur.
    found, description = measured(name, {1: 0, 2.4: 230, 5: 999}, above=500)
    assert (found["right"], found["images"]) == (5, 5)
    assert description.endswith(", among its 3 classes")
    # Class 1 does not occur either, so that pictures 4 and 5 are nearest to 3.2.
    found, _ = measured(name, {1: 999, 2: 230, 3.2: 0, 5: 1}, above=500)
    assert found["right"] == 1


@pytest.mark.parametrize("reverse", [True, False])
def test_classes_of_the_protocols_are_matched_by_name(reverse):
    names = synsets()[::-1] if reverse else synsets()
    answers = {
        number: 999 - label if reverse else label
        for number, label in enumerate(imagenet.VALIDATION_LABELS)
    }
    for name, expected in (("imagenet", 5), ("real", 4)):
        found, _ = measured(name, answers, names=names)
        assert found["right"] == expected
    answers = {1: 0, 2.4: 230, 5: 999}
    if reverse:
        answers = {number: 999 - label for number, label in answers.items()}
    found, _ = measured("imagenet-a", answers, names=names)
    assert found["right"] == 5


# ReaL's labels of the first five: none; 970, 795; 230, 231; 809; 516, 850.
@pytest.mark.parametrize(
    ("answers", "right"),
    [
        ({0: 65, 1: 970, 2: 230, 3: 809, 4: 516}, 4),
        ({0: 65, 1: 795, 2: 231, 3: 809, 4: 850}, 4),
        ({0: 65, 1: 971, 2: 232, 3: 809, 4: 851}, 1),
        ({0: 970, 1: 65, 2: 795, 3: 231, 4: 230}, 0),
    ],
)
@pytest.mark.parametrize("place", ["tfds", "imagenet2012", "folder"])
def test_real_counts_images_with_labels_of_which_one_is_enough(
    place, answers, right, tmp_path
):
    name = f"real={write_validation(tmp_path)}" if place == "folder" else "real"
    file = None if place == "tfds" else REAL_LABELS
    found, description = measured(name, answers, real_labels=file)
    assert (found["right"], found["images"]) == (right, 4)
    assert found["top1"] == right / 4
    place = {
        "tfds": "imagenet2012_real (TFDS 1.0.0)",
        "imagenet2012": "imagenet2012 (TFDS 5.1.0)",
        "folder": str(tmp_path),
    }[place]
    assert description == f"ReaL, {place}, 4 of 5 images with labels"


def test_the_labels_of_real_are_told_by_the_names_of_the_images(tmp_path):
    """100 images, of which 94 have labels: 111 in all, 16 images several."""
    labels = json.loads(REAL_LABELS.read_text())
    for number in range(len(labels)):
        # Their red tells ten of them from the others.
        picture = imagenet.jpeg(number % 10)
        (tmp_path / f"ILSVRC2012_val_{number + 1:08}.JPEG").write_bytes(picture)
    dataset = load(f"real={tmp_path}", REAL_LABELS)
    right = dataset.test.labels
    assert (right.shape, right.dtype) == ((100, 1000), bool)
    assert right.any(axis=1).sum() == 94
    assert right.sum() == 111
    assert (right.sum(axis=1) > 1).sum() == 16
    assert np.flatnonzero(right[1]).tolist() == [795, 970]
    assert dataset.description.endswith("94 of 100 images with labels")
    numbers = imagenet.numbers_of(dataset.test.images)
    assert numbers == [number % 10 for number in range(100)]


def test_what_real_needs_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"require --real-labels real\.json"):
        load(f"real={write_validation(tmp_path / 'val')}")
    with pytest.raises(MissingDatasetError, match=r"nothing\.json does not exist"):
        load("real", tmp_path / "nothing.json")
    for content, reason in (
        ("{}}", "is not valid"),
        ("[1, 2]", "is not valid"),
        ("[[1000]]", "has classes outside 0 to 999"),
        ('[["cat"]]', "has classes outside"),
    ):
        (tmp_path / "labels.json").write_text(content)
        with pytest.raises(ValueError, match=reason):
            load("real", tmp_path / "labels.json")
    (tmp_path / "labels.json").write_text("[[1], [2]]")
    with pytest.raises(ValueError, match="not one of the 2 images with ReaL labels"):
        load("real", tmp_path / "labels.json")


def test_a_missing_folder_is_said_to_be(tmp_path):
    for name in ("imagenet-a", "real"):
        with pytest.raises(MissingDatasetError, match="nothing does not exist"):
            load(f"{name}={tmp_path / 'nothing'}", REAL_LABELS)


def test_a_model_of_other_classes_is_refused():
    model = model_that_answers({1: 1}, classes=10)
    with pytest.raises(ValueError, match="has 1000 classes, but a model has 10"):
        match_classes(
            Classifier("a model", model, None), "imagenet-a", load("imagenet-a")
        )


def test_a_number_that_is_no_class_of_imagenet_is_refused(tmp_path):
    write_classes(tmp_path, {0: (1,), 1500: (2,)})
    with pytest.raises(ValueError, match="a class folder 1500; .* from 0 to 999"):
        load(f"imagenet-v2={tmp_path}")
