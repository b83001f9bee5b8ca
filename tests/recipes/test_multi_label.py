"""Multi-label classification: trained, resumed, published and evaluated by name."""

import csv
import dataclasses

import numpy as np
import pytest
from PIL import Image

import keras_cbvit
from keras_cbvit.pretrained.sources import PLACE_VARIABLE
from recipes import evaluate, publish
from recipes.data.multi_label import load_multi_label
from recipes.evaluation.multi_label import measures, sentence, tables
from recipes.experiment import Experiment, Run
from recipes.options.classification import NO_AUGMENTATION
from recipes.options.multi_label import Augmentation, Data, Training
from recipes.train import train
from tests.recipes.html import Page
from tests.recipes.printed import without_padding
from tests.recipes.published import records_in
from tests.recipes.small import SMALL, interrupted, read_log
from tests.tiny import assert_same_values, values

pytestmark = pytest.mark.slow

NAMES = ("blue", "green", "red")


def write_set(folder, number=60, header=("image", "labels", "split"), separator="|"):
    """Images whose channels are bright where they have the label of that color."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    rows = []
    for i in range(number):
        right = random.random(3) < 0.5  # red, green, blue
        pixels = random.integers(0, 40, (8, 8, 3)) + 200 * right
        Image.fromarray(pixels.astype("uint8")).save(folder / f"{i}.png")
        names = [
            name for name, is_right in zip(NAMES[::-1], right, strict=True) if is_right
        ]
        split = "train" if i < 0.8 * number else "test"
        rows.append((f"{i}.png", separator.join(names), split))
    with open(folder / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return folder / "labels.csv"


def experiment(file, run_dir, **run):
    return Experiment(
        SMALL.network,
        Data(dataset=str(file), image_size=(8, 8)),
        Augmentation(**vars(NO_AUGMENTATION)),
        Training(
            epochs=12, global_batch_size=12, base_learning_rate=0.5, warmup_epochs=1
        ),
        Run(run_dir=run_dir, checkpoint_steps=6, **run),
    )


# What is measured.


def test_the_measures_are_those_computed_by_hand():
    right = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool)
    probabilities = np.array([[0.9, 0.6], [0.8, 0.5], [0.7, 0.9], [0.1, 0.2]])
    found = measures(probabilities, right)
    # Class 0: right at the ranks 1 and 3: (1/1 + 2/3) / 2. Class 1: 1 and 3 as well.
    assert found["average_precision"] == pytest.approx([5 / 6, 5 / 6])
    assert found["mean_average_precision"] == pytest.approx(5 / 6)
    at = {row["threshold"]: row for row in found["thresholds"]}
    # At 0.5 six decisions are yes, four of them are right, of four that should be.
    assert at[0.5]["precision"] == pytest.approx(4 / 6)
    assert at[0.5]["recall"] == 1
    assert found["f1"] == at[0.5]["f1"] == pytest.approx(0.8)
    # At 0.9 two are, both right.
    assert (at[0.9]["precision"], at[0.9]["recall"]) == (1, 0.5)


def test_a_class_that_is_right_everywhere_or_nowhere_has_no_average_precision():
    right = np.array([[1, 0, 1], [1, 0, 0]], bool)
    found = measures(np.array([[0.9, 0.1, 0.8], [0.8, 0.2, 0.1]]), right)
    assert found["average_precision"] == [None, None, 1.0]
    assert found["mean_average_precision"] == 1.0
    nothing = measures(np.full((2, 3), 0.5), np.ones((2, 3), bool))
    assert nothing["mean_average_precision"] is None
    row = {"model": "a", "on": "b", "backend": "c", **nothing}
    row["average_precision"] = dict.fromkeys("abc")
    assert "mean average precision unknown, F1 1.0000" in sentence(row)
    assert "| – |" in without_padding(tables([row]))


def test_predictions_that_are_not_finite_are_refused():
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        measures(np.array([[np.nan, 1.0]]), np.array([[True, False]]))


# The data.


def test_labels_are_read_by_name_and_from_columns(tmp_path):
    by_name = load_multi_label(
        Data(dataset=str(write_set(tmp_path)), image_size=(8, 8))
    )
    assert by_name.class_names == NAMES
    assert by_name.train.labels.shape == (48, 3)
    assert by_name.test.labels.shape == (12, 3)
    bright = by_name.train.images.mean(axis=(1, 2))[:, ::-1] > 120  # blue first
    np.testing.assert_array_equal(by_name.train.labels, bright)
    with open(tmp_path / "columns.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", *NAMES, "split"))
        for split, part in (("train", by_name.train), ("test", by_name.test)):
            first = 0 if split == "train" else 48
            for i, labels in enumerate(part.labels):
                writer.writerow((f"{first + i}.png", *labels.astype(int), split))
    file = str(tmp_path / "columns.csv")
    by_column = load_multi_label(Data(dataset=file, image_size=(8, 8)))
    np.testing.assert_array_equal(by_column.train.labels, by_name.train.labels)
    np.testing.assert_array_equal(by_column.test.labels, by_name.test.labels)


def test_a_file_without_splits_sets_every_fifth_image_aside(tmp_path):
    file = write_set(tmp_path, 20, header=("image", "labels", "other"))
    text = file.read_text().replace(",other", "").replace(",train", "")
    file.write_text(text.replace(",test", ""))
    found = load_multi_label(Data(dataset=str(file), image_size=(8, 8)))
    assert (len(found.train), len(found.test)) == (16, 4)


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "picture,labels\na.png,x\n",
            "has the columns picture, labels; it must have image",
        ),
        ("image,labels\nnone.png,a|b\n", "line 2: the image .*none.png does not exist"),
        ("image,a,b\n0.png,1,2\n", "line 2, b is '2'; it must be 0 or 1"),
        ("image,labels\n0.png\n", "line 2 does not have 2 columns"),
        ("image,a, a\n0.png,1,0\n", "own.csv has the column a twice"),
        (
            "image,labels,split\n0.png,a|b,train\n0.png,a|c,test\n",
            "has .*0.png in both splits",
        ),
        (
            "image,labels,split\n0.png,a,train\n1.png,a,test\n",
            "own.csv have 1 classes, but at least two",
        ),
        ("image,labels,split\n0.png,a|b,train\n", "no images in the split 'test'; its"),
        (
            "image,labels,split\n0.png,a|b,train\n1.png,a|c,test\n",
            "has c, but the training images have only a, b",
        ),
    ],
)
def test_files_that_make_no_sense_are_refused_by_line(text, message, tmp_path):
    write_set(tmp_path, 4)
    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_multi_label(Data(dataset=str(tmp_path / "own.csv"), image_size=(8, 8)))


def test_a_split_that_is_not_there_is_named(tmp_path):
    file = write_set(tmp_path, 10)
    text = file.read_text()
    (tmp_path / "test.csv").write_text(text)
    with pytest.raises(FileNotFoundError, match=r"The file .*train\.csv"):
        load_multi_label(Data(dataset=str(tmp_path), image_size=(8, 8)))
    file.write_text(text.replace(",train", ",test"))
    data = Data(dataset=str(file), image_size=(8, 8))
    with pytest.raises(
        ValueError, match="no images in the split 'train'; its splits are test"
    ):
        load_multi_label(data)
    assert len(load_multi_label(data, train=False).test) == 10


def test_parts_of_a_file_without_splits_are_those_of_training(tmp_path):
    rows = write_set(tmp_path, 20).read_text().splitlines()
    file = tmp_path / "undivided.csv"
    file.write_text("\n".join(row.rpartition(",")[0] for row in rows))
    numbers = {}
    for split in ("test", "train", "."):
        data = Data(dataset=str(file), image_size=(8, 8), test_split=split)
        numbers[split] = len(load_multi_label(data, train=False).test)
    assert numbers == {"test": 4, "train": 16, ".": 20}


def test_every_column_is_a_class_and_one_without_images_is_named(tmp_path):
    write_set(tmp_path, 4)
    file = tmp_path / "own.csv"
    table = "image, cat, dog,eel,split\n0.png,1,0,0,train\n1.png,0,1,0,train\n"
    file.write_text(table + "2.png,1,0,1,test\n")
    with pytest.warns(UserWarning) as caught:
        found = load_multi_label(Data(dataset=str(file), image_size=(8, 8)))
    assert found.class_names == ("cat", "dog", "eel")
    np.testing.assert_array_equal(found.test.labels, [[True, False, True]])
    messages = [str(warning.message) for warning in caught]
    assert any("no train images for 1 of its 3 classes: eel" in m for m in messages)
    assert any("no test images for 1 of its 3 classes: dog" in m for m in messages)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.csv does not exist. Pass a CSV"):
        load_multi_label(Data(dataset=str(tmp_path / "none.csv")))


# From training to evaluation.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An experiment that was trained and published, and its model."""
    folder = tmp_path_factory.mktemp("multi_label")
    ran = experiment(
        write_set(folder / "set"),
        folder / "run",
        publish="vitcb_tests.colors",
        weights_dir=folder / "weights",
    )
    model, _ = train(ran)
    return ran, model


def test_training_learns_and_logs_the_mean_average_precision(trained):
    ran, model = trained
    log = read_log(ran.run.run_dir)
    assert log[-1]["val_mean_average_precision"] > 0.9
    assert log[-1]["loss"] < log[0]["loss"]
    assert model.class_names == NAMES
    assert model.spec.classifier_activation == "sigmoid"


@pytest.mark.any_backend
def test_an_interrupted_run_ends_with_the_same_weights(trained, tmp_path):
    ran, model = trained
    run = Run(run_dir=tmp_path / "run", checkpoint_steps=6, report=False)
    again = dataclasses.replace(ran, run=run)
    with interrupted(step=7):
        train(again)
    resumed, _ = train(again)
    assert_same_values(values(resumed), values(model))


@pytest.mark.any_backend
def test_other_labels_of_the_same_images_are_other_data(trained, tmp_path):
    ran, _ = trained
    file = write_set(tmp_path / "set")
    run = Run(run_dir=tmp_path / "run", checkpoint_steps=2, report=False)
    again = dataclasses.replace(
        ran, run=run, data=dataclasses.replace(ran.data, dataset=str(file))
    )
    with interrupted(step=3):
        train(again)
    text = file.read_text()
    file.write_text(text.replace("0.png,", "0.png,red|", 1))
    with pytest.raises(ValueError, match="run contains a run on other data"):
        train(again)


@pytest.mark.any_backend
def test_it_is_evaluated_by_its_name_and_its_run(
    trained, tmp_path, monkeypatch, capsys
):
    ran, _ = trained
    monkeypatch.setenv(PLACE_VARIABLE, str(ran.run.weights_dir))
    folder = str(ran.data.dataset).removesuffix("/labels.csv")
    log = read_log(ran.run.run_dir)[-1]["val_mean_average_precision"]
    evaluate.main(["vitcb_tests.colors", "--data-dir", folder])
    printed = capsys.readouterr().out
    assert f"vitcb_tests.colors: mean average precision {log:.4f}" in printed
    printed = without_padding(printed)
    assert "| blue |" in printed and "| threshold | precision % |" in printed
    evaluate.main([str(ran.run.run_dir), "--html", str(tmp_path / "report.html")])
    assert f"run: mean average precision {log:.4f}" in capsys.readouterr().out
    found = Page((tmp_path / "report.html").read_text())
    of_run = Page((ran.run.run_dir / "report.html").read_text())
    assert found.numbers["mean average precision"] == f"{log:.4f}"
    assert found.tables == of_run.tables
    assert len(found.tables["Thresholds"]) == 10


@pytest.mark.any_backend
def test_a_file_of_its_own_is_of_the_task_and_asks_for_its_data(trained, tmp_path):
    ran, model = trained
    model.save(tmp_path / "alone.keras")
    (row,) = evaluate.evaluate(
        evaluate.Evaluation((str(tmp_path / "alone.keras"),), on=(ran.data.dataset,))
    )
    assert row["task"] == "multi_label"


@pytest.mark.any_backend
def test_a_run_with_another_separator_is_measured_and_published(trained, tmp_path):
    ran, _ = trained
    run = tmp_path / "run"
    run.mkdir()
    for name in ("model.keras", "config.json"):
        content = (ran.run.run_dir / name).read_bytes()
        content = content.replace(b'"separator": "|"', b'"separator": ";"')
        (run / name).write_bytes(content)
    file = str(write_set(tmp_path / "set", separator=";"))
    (row,) = evaluate.evaluate(evaluate.Evaluation((str(run),), on=(file,)))
    options = [str(run / "model.keras"), "vitcb_tests.semi", "--dataset", file]
    options += ["--recipe", "a", "--trained-on", "b"]
    options += ["--weights-dir", str(tmp_path / "weights")]
    publish.main(options)
    (measured,) = records_in(tmp_path / "weights")["vitcb_tests.semi"].evaluations
    assert measured.options["separator"] == ";"
    mean = pytest.approx(row["mean_average_precision"], abs=1e-4)
    assert measured.metrics["mean_average_precision"] == mean
    with pytest.raises(SystemExit, match="test_labels= does not apply to multi"):
        publish.main([*options, "--overwrite", "--test-labels", "none.txt"])


@pytest.mark.any_backend
def test_what_is_for_other_tasks_is_refused(trained, monkeypatch):
    monkeypatch.setenv(PLACE_VARIABLE, str(trained[0].run.weights_dir))
    with pytest.raises(
        SystemExit, match="under=.* does not apply to multi-label classifiers"
    ):
        evaluate.main(["vitcb_tests.colors", "--under", "fgsm"])


@pytest.mark.any_backend
def test_the_published_model_gives_each_class_its_own_probability(trained, monkeypatch):
    ran, model = trained
    monkeypatch.setenv(PLACE_VARIABLE, str(ran.run.weights_dir))
    loaded = keras_cbvit.ViTCB(weights="vitcb_tests.colors")
    assert loaded.spec.classifier_activation == "sigmoid"
    white = np.full((1, 8, 8, 3), 230, "float32")
    np.testing.assert_allclose(loaded.predict(white), model.predict(white), atol=1e-6)
    assert loaded.predict(white).sum() > 1.5  # no softmax
