import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_cbvit
from keras_cbvit import Evaluation
from recipes import evaluate
from recipes.configs import camvid_mini, cifar10_mini
from recipes.evaluation.classifiers import Classifier
from recipes.evaluation.segmenters import MEASURED, data_of
from recipes.tasks import TASKS
from tests.recipes import imagenet
from tests.recipes.evaluation.imagenet_sets import model_that_answers
from tests.recipes.html import Page
from tests.recipes.printed import without_padding
from tests.recipes.small import read_log
from tests.tiny import fill, tiny

pytestmark = pytest.mark.slow

SHADES = {"black": 0, "gray": 128, "white": 255}


@pytest.fixture
def folder(tmp_path):
    """Five black, three gray and two white pictures in `pictures/test`."""
    for name, number in (("black", 5), ("gray", 3), ("white", 2)):
        place = tmp_path / "pictures" / "test" / name
        place.mkdir(parents=True)
        for i in range(number):
            Image.new("L", (12, 8), SHADES[name]).save(place / f"{i}.png")
    return tmp_path / "pictures"


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Weights that call everything the class named first, whatever its name."""
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(tmp_path))

    def publish(class_names, evaluations=(), **facts):
        model = tiny(classes=len(class_names))
        bias = np.zeros(len(class_names))
        bias[0] = 9.0
        model.get_layer("head").kernel.assign(
            np.zeros(model.get_layer("head").kernel.shape)
        )
        model.get_layer("head").bias.assign(bias)
        keras_cbvit.publish(
            model,
            "vitcb_toy.shades",
            tmp_path,
            class_names=class_names,
            evaluations=evaluations,
            trained_on="none",
            recipe="none",
            license="Apache-2.0",
            overwrite=True,
            **facts,
        )
        return "vitcb_toy.shades"

    return publish


@pytest.mark.parametrize(
    ("class_names", "right"),
    [
        (["black", "gray", "white"], 5),
        (["white", "gray", "black"], 2),
        (["gray", "blue", "white", "red", "black"], 3),
    ],
)
@pytest.mark.any_backend
def test_classes_are_matched_by_name(published, folder, capsys, class_names, right):
    name = published(class_names)
    evaluate.main([name, "--on", str(folder)])
    assert f"{name}: {right} of 10 test images correct" in capsys.readouterr().out


@pytest.mark.any_backend
def test_classes_that_the_model_does_not_know_are_refused(published, folder):
    name = published(["black", "gray", "blue"])
    with pytest.raises(
        SystemExit,
        match="the classes white, but vitcb_toy.shades has only black, gray, blue\\. "
        "`--probe knn linear` evaluates features on any classes\\.",
    ):
        evaluate.main([name, "--on", str(folder)])


@pytest.mark.any_backend
def test_published_weights_are_measured_as_their_record_says(
    finished, published_digits, capsys
):
    evaluate.main([published_digits, "--batch-size", "100"])
    accuracy = read_log(finished.run.run_dir)[-1]["val_accuracy"]
    assert capsys.readouterr().out.splitlines()[0] == (
        f"vitcb_tests.digits: {accuracy * 360:.0f} of 360 test images correct, top-1 "
        f"accuracy {accuracy:.4f} (scikit-learn's digits; {keras.backend.backend()})"
    )


@pytest.mark.any_backend
def test_a_run_folder_is_measured_on_its_own_data_and_reported(
    finished, tmp_path, capsys
):
    folder, file = finished.run.run_dir, tmp_path / "reports" / "run.html"
    evaluate.main([str(folder), "--html", str(file)])
    right = round(read_log(folder)[-1]["val_accuracy"] * 360)
    assert f"{folder}: {right} of 360 test images" in capsys.readouterr().out
    report = file.read_text()
    found, of_run = Page(report), Page((folder / "report.html").read_text())
    assert found.tables == of_run.tables
    assert found.captions == of_run.captions
    assert found.images == of_run.images
    assert found.numbers["right"] == str(right)
    assert report.count("<svg") == 3  # the calibration and two curves


@pytest.mark.any_backend
def test_a_report_of_models_and_conditions(published, folder, tmp_path):
    name = published(["black", "gray", "white"])
    arguments = [name, "--on", str(folder), "--under", "clean", "occlusion"]
    evaluate.main([*arguments, "--html", str(tmp_path / "a.html")])
    found = Page((tmp_path / "a.html").read_text())
    about = [each for each in found.headings if "5 of 10 test images correct" in each]
    assert len(about) == 2 and "occlusion" in about[1]
    assert found.tables["Confusion matrix"][1:] == [
        ["black", "5", "0", "0"],
        ["gray", "3", "0", "0"],
        ["white", "2", "0", "0"],
    ]
    # The file names of a folder.
    assert found.captions[0].startswith("true: gray\npredicted: black, 100%\n0.png")


@pytest.mark.any_backend
def test_a_report_is_an_html_file_in_a_folder(tmp_path):
    with pytest.raises(SystemExit, match=r"html=a\.txt must be a \.html file"):
        evaluate.main(["vit_mini.cifar10", "--html", "a.txt"])
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="file"):
        evaluate.main(["nothing", "--html", str(tmp_path / "file" / "a.html")])


@pytest.mark.any_backend
def test_a_record_says_the_set_the_split_and_the_crop(published):
    measured = Evaluation(
        task="classification",
        dataset="imagenet2012",
        split="validation",
        metrics={"top1": 0.5},
        images=50_000,
        command="none",
    )
    name = published(["a", "b", "c"], [measured], crop_fraction=0.875)

    def data(on=None, **options):
        classifier = Classifier(name, tiny(), ("a", "b", "c"))
        asked = evaluate.Evaluation((name,), **options)
        return TASKS["classification"].data_to_evaluate(asked, on, classifier)

    imagenet = data(strict=True)
    assert imagenet.dataset == "imagenet2012"
    assert (imagenet.test_split, imagenet.crop_fraction) == ("validation", 0.875)
    assert imagenet.strict
    assert imagenet.image_size == (8, 12)
    assert data(crop_fraction=1.0).crop_fraction == 1
    # Another data set is not the record's.
    flowers = data("tf_flowers")
    assert (flowers.dataset, flowers.test_split) == ("tf_flowers", "test")
    assert flowers.crop_fraction == 1


@pytest.mark.parametrize("family", ["vit", "vitcb", "vitcbs"])
def test_the_packages_own_weights_are_measured_as_they_were_trained(family):
    name = f"{family}_mini.cifar10"
    classifier = Classifier(name, tiny(), None)
    asked = evaluate.Evaluation((name,))
    found = TASKS["classification"].data_to_evaluate(asked, None, classifier)
    config = cifar10_mini.config().data
    for field in ("dataset", "test_split", "crop_fraction"):
        assert getattr(found, field) == getattr(config, field)
    found = data_of(f"upernet_{family}_mini.camvid_mini", {"data_dir": "place"})
    config = camvid_mini.config().data
    for field in MEASURED:
        assert getattr(found, field) == getattr(config, field)
    assert Path(found.data_dir, found.dataset) == Path("place", config.dataset)


@pytest.mark.any_backend
def test_a_record_that_says_nothing_needs_a_data_set(published):
    name = published(["a", "b", "c"])
    with pytest.raises(SystemExit, match="vitcb_toy.shades has no record of its test"):
        evaluate.main([name])


@pytest.mark.any_backend
def test_a_broken_picture_is_left_out_and_said_to_be(published, folder, capsys):
    name = published(["black", "gray", "white"])
    (folder / "test" / "black" / "0.png").write_bytes(b"not a picture")
    with pytest.warns(UserWarning, match=r"0\.png is not a readable image"):
        evaluate.main([name, "--on", str(folder)])
    printed = capsys.readouterr().out
    assert "4 of 9 test images correct" in printed
    assert "without 1 that cannot be decoded" in printed
    with pytest.raises(SystemExit, match=r"0\.png is not a readable image"):
        evaluate.main([name, "--on", str(folder), "--strict"])


def test_a_file_needs_a_data_set(tmp_path):
    tiny().save(tmp_path / "model.keras")
    with pytest.raises(SystemExit, match="set --on"):
        evaluate.main([str(tmp_path / "model.keras")])


def test_a_file_needs_as_many_classes(tmp_path, folder):
    tiny(classes=4).save(tmp_path / "model.keras")
    with pytest.raises(SystemExit, match=r"has 3 classes, but .*model\.keras has 4\."):
        evaluate.main([str(tmp_path / "model.keras"), "--on", str(folder)])


@pytest.mark.any_backend
def test_a_folder_of_another_zoo_is_measured_as_a_file_is(tmp_path, folder, capsys):
    model = fill(tiny(broadcast="none"))
    model.save(tmp_path / "model.keras")
    keras_cbvit.export.save_for_timm(model, tmp_path / "zoo")
    found = []
    for name in ("model.keras", "zoo"):
        evaluate.main([str(tmp_path / name), "--on", str(folder)])
        printed = capsys.readouterr().out
        found.append(re.search(r"\d+ of 10 test images correct", printed)[0])
    assert found[0] == found[1]


def test_unknown_weights_are_said_to_be_unknown():
    with pytest.raises(SystemExit, match=r"no weights 'vitcb_ti\.nothing'"):
        evaluate.main(["vitcb_ti.nothing"])
    with pytest.raises(SystemExit, match="No model given"):
        evaluate.main([])
    with pytest.raises(SystemExit, match="No conditions given"):
        evaluate.main(["vitcb_ti.nothing", "--under"])


@pytest.fixture
def always_white(tmp_path):
    """A file of a model of another package, that takes -1 to 1 and any size.

    Its logits of black, gray and white are 0, 0 and 2 + 0.1 mean.
    """
    images = keras.Input((None, None, 3))
    means = keras.layers.GlobalAveragePooling2D()(images)
    model = keras.Model(images, keras.layers.Dense(3)(means))
    kernel = np.zeros((3, 3))
    kernel[0, 2] = 0.1
    model.set_weights([kernel, np.array([0, 0, 2])])
    model.save(tmp_path / "white.keras")
    return str(tmp_path / "white.keras")


@pytest.mark.any_backend
def test_models_sets_and_conditions_side_by_side(
    published, folder, always_white, tmp_path, capsys
):
    name = published(["black", "gray", "white"])
    file = tmp_path / "results" / "all.json"
    arguments = [name, always_white, "--on", str(folder), str(folder)]
    arguments += ["--under", "clean", "occlusion", "fgsm"]
    arguments += ["--epsilons", "1", "2.5", "--normalize", "symmetric"]
    arguments += ["--image-size", "8", "8", "--json", str(file)]
    evaluate.main(arguments)
    rows = json.loads(file.read_text())
    conditions = [("clean", None), ("occlusion", None), ("fgsm", 1.0), ("fgsm", 2.5)]
    assert [(row["under"], row["epsilon"], row["model"]) for row in rows] == 2 * [
        (*condition, model)
        for condition in conditions
        for model in (name, always_white)
    ]
    for row in rows:
        assert row["backend"] == keras.backend.backend()
        assert (row["images"], row["top5"]) == (10, 1.0)
        assert row["right"] == (5 if row["model"] == name else 2)
    # Of 5 black, 3 gray and 2 white pictures.
    white = np.array([2 + 0.1 * mean for mean in (-1, 128 / 127.5 - 1, 1)])
    losses = np.log(2 + np.exp(white)) - [0, 0, white[2]]
    assert rows[1]["loss"] == pytest.approx(losses @ [5, 3, 2] / 10, rel=1e-4)

    printed = capsys.readouterr().out
    lines = without_padding(printed[printed.index("| on ") :]).splitlines()
    assert len(lines) == 2 + len(rows)
    assert lines[3] == (
        f"| {folder.name}, test | clean | {always_white} | 10 | 20.00 | 100.00 "
        f"| {rows[1]['loss']:.4f} | {rows[1]['ece']:.4f} |"
    )
    assert "| fgsm ε=2.5 |" in lines[-1]
    assert f"({folder.name}, test, fgsm ε=2.5; " in printed


@pytest.mark.any_backend
def test_the_protocols_are_sets_of_the_command(tmp_path, capsys):
    labels = dict(enumerate(imagenet.VALIDATION_LABELS))
    model_that_answers(labels).save(tmp_path / "a.keras")
    arguments = [str(tmp_path / "a.keras"), "--data-dir", str(imagenet.FOLDER)]
    evaluate.main([*arguments, "--on", "imagenet", "real", "imagenet-v2", "imagenet-a"])
    printed = capsys.readouterr().out.splitlines()
    assert "5 of 5 test images correct" in printed[0]
    assert "4 of 4 test images correct" in printed[1]
    assert "0 of 4 test images correct" in printed[2]
    assert "(imagenet_a (TFDS 0.1.0), among its 3 classes; " in printed[3]
