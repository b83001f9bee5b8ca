"""A segmentation model from training to its published weights and their evaluation."""

import json
import shutil
from unittest import mock

import keras
import numpy as np
import pytest
from PIL import Image

import keras_cbvit
from recipes import evaluate, figures, publish, train
from recipes.configs import camvid_mini
from recipes.data.segmentation.pairs import load_pairs
from recipes.evaluation import segmenters
from recipes.evaluation.pixels import measure, predict_pairs
from recipes.evaluation.segmenters import data_of
from tests.recipes.printed import without_padding
from tests.recipes.published import published_file, records_in
from tests.recipes.small import read_log
from tests.recipes.test_segment import write_pictures
from tests.tiny import assert_same_values, tiny, values

pytestmark = pytest.mark.slow

NAME = "upernet_toy.camvid_mini"
NETWORK = {
    "weights": "None",
    "patch-size": 8,
    "hidden-dim": 8,
    "depth": 4,
    "num-heads": 2,
    "blocks": "0 1 2 3",
    "channels": 4,
}
TRAINING = {
    "iterations": 2,
    "evaluation-iterations": 2,
    "global-batch-size": 2,
    "scale": "48 64",
    "image-size": "32 32",
}


def options_of(values):
    return [part for key, v in values.items() for part in (f"--{key}", *str(v).split())]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with CamVid, as far as the pictures of the tests are it."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "camvid").mkdir()
    write_pictures(folder / "camvid")
    return folder


@pytest.fixture(scope="module")
def run(place):
    """The folder of a run that was published into `weights` beside it."""
    where = {
        "data-dir": place,
        "run-dir": place / "run",
        "weights-dir": place / "weights",
    }
    settings = options_of({**NETWORK, **TRAINING, **where, "publish": NAME})
    train.main(["camvid_mini", *settings, "--precision", "mixed_bfloat16"])
    return place / "run"


@pytest.fixture
def known(run, monkeypatch):
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(run.with_name("weights")))


def mean_iou_of(record):
    """What was measured of the model of a record."""
    (measured,) = record.evaluations
    return measured.metrics["mean_iou"]


def evaluated(folder, *arguments):
    """What `recipes.evaluate` writes as JSON."""
    file = folder / "found.json"
    evaluate.main([*arguments, "--json", str(file)])
    return json.loads(file.read_text())


@pytest.mark.any_backend
def test_the_record_is_of_the_run(run, place):
    record = records_in(place / "weights")[NAME]
    model = keras_cbvit.load_model(run / "model.keras")
    config = camvid_mini.config().data
    pairs = load_pairs(data_of(str(run), {"data_dir": place})).test
    found = measure(model, pairs, (48, 64), batch_size=1)
    (measured,) = record.evaluations
    value = measured.metrics["mean_iou"]
    assert value == pytest.approx(found["mean_iou"], abs=1e-6)
    assert next(iter(measured.metrics)) == "mean_iou"
    assert (measured.task, measured.dataset) == ("segmentation", "./camvid")
    assert (measured.split, measured.images) == ("val", 5)
    assert measured.options == {
        "class_names": list(config.class_names),
        "ignored_label": 11,
        "scale": [48, 64],
    }
    # The pictures have three of the eleven classes.
    assert measured.notes.startswith(
        f"whole images at the scale 48×64, {found['pixels']:,} "
        f"labeled pixels, mean IoU over {found['classes_counted']} of 11 classes; "
        "neither labels nor predictions contain "
    )
    assert record.trained_on == "camvid, 8 images"
    assert record.class_names == list(config.class_names)
    assert "--publish upernet_toy.camvid_mini" in record.recipe
    # The model in the log was in another precision.
    assert read_log(run)[-1]["val_mean_iou"] == pytest.approx(value, abs=0.02)


@pytest.mark.any_backend
def test_it_is_measured_by_name_as_from_its_run(run, place, known, tmp_path, capsys):
    value = mean_iou_of(records_in(place / "weights")[NAME])
    rows = evaluated(tmp_path, NAME, str(run), "--data-dir", str(place))
    assert [row["model"] for row in rows] == [NAME, str(run)]
    for row in rows:
        assert row["mean_iou"] == pytest.approx(value, abs=1e-4)
        assert (row["on"], row["images"]) == ("camvid, val", 5)
        assert list(row["class_iou"]) == list(camvid_mini.config().data.class_names)
    printed = capsys.readouterr().out
    assert f"{NAME}: mean IoU {value:.4f}" in printed
    lines = without_padding(printed).splitlines()
    majority = 100 * rows[0]["majority_mean_iou"]
    everywhere = "the most frequent class everywhere"
    assert any(
        line.startswith(f"| camvid, val | {everywhere} | 5 | {majority:.2f} |")
        for line in lines
    )
    sky = [f"{100 * row['class_iou']['sky']:.2f}" for row in rows]
    assert f"| sky | {' | '.join(sky)} |" in lines
    data = data_of(NAME, {"data_dir": place})
    found = measure(keras_cbvit.load_model(NAME), load_pairs(data).test, data.scale)
    assert list(rows[0]["class_iou"].values()) == pytest.approx(found["class_iou"])


@pytest.mark.any_backend
def test_its_files_know_its_classes(run, place, known):
    names = camvid_mini.config().data.class_names
    for model in (
        keras_cbvit.load_model(run / "model.keras"),
        keras.saving.load_model(published_file(place / "weights", NAME)),
        keras_cbvit.load_model(NAME),
    ):
        assert type(model) is keras_cbvit.SegmentationModel
        assert model.class_names == names
        assert keras_cbvit.class_names(model) == [*names]


def permuted(run, folder, order):
    """A copy of a run whose model has its classes in another order; not its config."""
    shutil.copytree(run, folder)
    model = keras_cbvit.load_model(folder / "model.keras")
    classifier = model.get_layer("uper_head").head.classifier
    classifier.kernel.assign(classifier.kernel.numpy()[..., order])
    classifier.bias.assign(classifier.bias.numpy()[order])
    model.class_names = [model.class_names[number] for number in order]
    model.save(folder / "model.keras")
    return str(folder)


@pytest.mark.any_backend
def test_classes_in_another_order_are_measured_by_name(
    run, place, tmp_path, monkeypatch
):
    other = permuted(run, tmp_path / "other", [3, 0, 1, 2, *range(4, 11)])
    drawn = []
    monkeypatch.setattr(
        segmenters, "draw_segmentations", lambda *args: drawn.append(args)
    )
    options = ["--data-dir", str(place), "--figure", str(tmp_path / "both.png")]
    first, second = evaluated(tmp_path, str(run), other, *options)
    assert first["class_iou"] == second["class_iou"]
    assert list(first["class_iou"]) != list(second["class_iou"])
    for key in ("mean_iou", "pixel_accuracy", "classes_counted", "majority_mean_iou"):
        assert first[key] == second[key]
    for key in ("not_labeled", "never_predicted"):
        assert set(first[key]) == set(second[key])
    ((rows, names, *_),) = drawn
    assert tuple(names) == camvid_mini.config().data.class_names
    for _, _, one, two in rows:
        np.testing.assert_array_equal(one, two)
    facts = ["--trained-on", "noise", "--recipe", "by hand", "--data-dir", str(place)]
    file = f"{other}/model.keras"
    publish.main([file, "upernet_toy.own", *facts, "--weights-dir", str(tmp_path)])
    record = records_in(tmp_path)["upernet_toy.own"]
    assert mean_iou_of(record) == pytest.approx(first["mean_iou"], abs=1e-6)
    assert record.class_names == list(second["class_iou"])


@pytest.mark.any_backend
def test_classes_that_the_model_does_not_know_are_refused(run, place, tmp_path):
    model = keras_cbvit.load_model(run / "model.keras")
    shutil.copytree(run, tmp_path / "run")
    model.class_names = ["heaven", *model.class_names[1:]]
    model.save(tmp_path / "run" / "model.keras")
    message = "The labels have the classes sky, but .*run has only heaven, b"
    options = ["--data-dir", str(place)]
    with pytest.raises(SystemExit, match=message):
        evaluate.main([str(tmp_path / "run"), *options])
    facts = ["--trained-on", "noise", "--recipe", "by hand", "--weights-dir"]
    with pytest.raises(SystemExit, match="The labels have the classes sky, but"):
        file = str(tmp_path / "run" / "model.keras")
        publish.main([file, "upernet_toy.own", *facts, str(tmp_path / "w"), *options])


@pytest.mark.any_backend
def test_a_model_without_names_is_measured_by_position_and_said_to_be(
    run, place, tmp_path
):
    shutil.copytree(run, tmp_path / "run")
    model = keras_cbvit.load_model(run / "model.keras")
    model.class_names = None
    model.save(tmp_path / "run" / "model.keras")
    with pytest.warns(UserWarning, match="has no class names; assuming"):
        first, second = evaluated(
            tmp_path, str(run), str(tmp_path / "run"), "--data-dir", str(place)
        )
    assert first["class_iou"] == second["class_iou"]


@pytest.mark.any_backend
def test_classes_without_pixels_are_named_in_the_result(run, place, tmp_path, capsys):
    with pytest.warns(
        UserWarning, match="mean IoU over .* of 11 classes; neither label"
    ):
        (row,) = evaluated(tmp_path, str(run), "--data-dir", str(place))
    names = camvid_mini.config().data.class_names
    assert row["not_labeled"] == list(names[3:])
    nowhere = [n for n in row["not_labeled"] if n in row["never_predicted"]]
    assert nowhere == [name for name, iou in row["class_iou"].items() if iou is None]
    assert row["classes_counted"] == 11 - len(nowhere)
    counted = [iou for iou in row["class_iou"].values() if iou is not None]
    assert row["mean_iou"] == pytest.approx(np.mean(counted))
    sentence = capsys.readouterr().out.splitlines()[0]
    assert f"over {len(counted)} of 11 classes, pixel accuracy" in sentence
    assert f". Neither labeled nor predicted: {', '.join(nowhere)}" in sentence


@pytest.mark.any_backend
def test_what_models_predict_is_drawn_beside_the_truth(run, place, known, monkeypatch):
    drawn = {}

    def draw(rows, class_names, file, titles):
        drawn.update(rows=rows, titles=titles)
        figures.draw_segmentations(rows, class_names, file, titles)

    monkeypatch.setattr(segmenters, "draw_segmentations", draw)
    file = place / "pictures" / "both.png"
    options = ["--data-dir", str(place), "--figure", str(file)]
    evaluate.main([NAME, str(run), *options])
    assert drawn["titles"] == [NAME, "run"]
    # Of five pictures the first, two between and the last.
    model = keras_cbvit.load_model(NAME)
    data = data_of(NAME, {"data_dir": place})
    pairs = load_pairs(data).test
    found = list(predict_pairs(model, pairs, data.scale, batch_size=1))
    assert len(drawn["rows"]) == 4
    for row, index in zip(drawn["rows"], (0, 1, 3, 4), strict=True):
        _, labels, prediction = next(each for each in found if each[0] == index)
        np.testing.assert_array_equal(row[1], labels)
        for shown in row[2:]:
            assert np.mean(shown == prediction) > 0.99
    with Image.open(file) as picture:
        assert picture.width > 1000


@pytest.mark.any_backend
def test_another_data_set_is_measured_on_its_own_pictures(run, known, tmp_path):
    (tmp_path / "other").mkdir()
    other = write_pictures(tmp_path / "other")
    for picture in list((other / "val" / "images").iterdir())[:2]:
        (other / "val" / "labels" / picture.name).unlink()
        picture.unlink()
    (row,) = evaluated(tmp_path, NAME, "--on", str(other))
    assert (row["on"], row["images"]) == ("other, val", 3)


@pytest.mark.any_backend
def test_a_run_is_published_later_as_at_its_end(run, place, tmp_path):
    facts = ["--trained-on", "noise", "--recipe", "by hand", "--notes", "No *use*."]
    where = ["--weights-dir", str(tmp_path), "--data-dir", str(place)]
    publish.main([str(run / "model.keras"), NAME, *facts, *where])
    record, first = (records_in(f)[NAME] for f in (tmp_path, place / "weights"))
    (measured,), (before,) = record.evaluations, first.evaluations
    assert measured.metrics == pytest.approx(before.metrics, abs=1e-6)
    for field in ("dataset", "split", "images", "options", "notes"):
        assert getattr(measured, field) == getattr(before, field)
    assert (record.trained_on, record.recipe) == ("noise", "by hand")
    models = [
        keras_cbvit.load_model(published_file(f, NAME))
        for f in (tmp_path, place / "weights")
    ]
    assert_same_values(*map(values, models))
    card = published_file(tmp_path, NAME, ".md").read_text()
    assert "No *use*." in card and "load_model" in card


def another_run(run, folder, **changes):
    """A copy of a run with other settings of its data."""
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    config["experiment"]["data"].update(changes)
    (folder / "config.json").write_text(json.dumps(config))
    if "class_names" in changes:
        model = keras_cbvit.load_model(folder / "model.keras")
        model.class_names = changes["class_names"]
        model.save(folder / "model.keras")
    return str(folder)


@pytest.mark.any_backend
def test_the_split_that_is_asked_for_is_measured_and_named(
    run, place, tmp_path, monkeypatch
):
    where = ["--data-dir", str(place), "--test-split", "train"]
    (row,) = evaluated(tmp_path, str(run), *where)
    assert (row["on"], row["images"]) == ("camvid, train", 8)
    facts = ["--trained-on", "noise", "--recipe", "by hand"]
    out = ["--weights-dir", str(tmp_path / "weights")]
    publish.main([str(run / "model.keras"), "upernet_toy.own", *facts, *where, *out])
    record = records_in(tmp_path / "weights")["upernet_toy.own"]
    assert mean_iou_of(record) == pytest.approx(row["mean_iou"], abs=1e-4)
    (measured,) = record.evaluations
    assert (measured.dataset, measured.split, measured.images) == (
        "./camvid",
        "train",
        8,
    )
    # By its name it is measured on this split again.
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(tmp_path / "weights"))
    (again,) = evaluated(tmp_path, "upernet_toy.own", "--data-dir", str(place))
    assert (again["on"], again["mean_iou"]) == (
        row["on"],
        pytest.approx(mean_iou_of(record), abs=1e-4),
    )
    with pytest.raises(
        SystemExit, match="crop_fraction=0.5 does not apply to segmentation"
    ):
        options = [*facts, *out, "--crop-fraction", "0.5"]
        publish.main([str(run / "model.keras"), "upernet_toy.other", *options])


@pytest.mark.any_backend
def test_a_record_keeps_its_own_scale_whatever_its_tag(
    run, place, tmp_path, monkeypatch
):
    facts = ["--trained-on", "noise", "--recipe", "by hand"]
    options = [*facts, "--data-dir", str(place), "--weights-dir", str(tmp_path)]
    other = another_run(run, tmp_path / "other", scale=[24, 32])
    # The tag is that of a config with another scale.
    publish.main([f"{other}/model.keras", "upernet_toy.camvid", *options])
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(tmp_path))
    assert data_of("upernet_toy.camvid", {}).scale == (24, 32)
    name, file = "upernet_toy.camvid", f"{other}/model.keras"
    rows = evaluated(tmp_path, name, file, "--data-dir", str(place))
    assert rows[0]["mean_iou"] == pytest.approx(rows[1]["mean_iou"], abs=1e-6)
    assert rows[0]["pixels"] == rows[1]["pixels"] < 5 * 48 * 64


@pytest.mark.any_backend
def test_a_file_in_no_run_folder_says_that_it_needs_one(run, place, tmp_path):
    file = tmp_path / f"{NAME}.keras"
    shutil.copy(run / "model.keras", file)
    message = r"camvid_mini\.keras is not in a run folder and has no record"
    facts = ["--trained-on", "noise", "--recipe", "by hand"]
    options = [*facts, "--data-dir", str(place), "--weights-dir", str(tmp_path / "w")]
    with pytest.raises(SystemExit, match=message):
        evaluate.main([str(file), "--data-dir", str(place)])
    with pytest.raises(SystemExit, match=message):
        publish.main([str(file), NAME, *options])
    assert not (tmp_path / "w").exists()


@pytest.mark.any_backend
def test_sets_of_one_name_are_kept_apart(run, place, tmp_path, capsys):
    (tmp_path / "camvid").mkdir()
    other = write_pictures(tmp_path / "camvid")
    for labels in (other / "val" / "labels").iterdir():
        black = Image.new("L", Image.open(labels).size)
        black.save(labels)
    names = ["heaven", *camvid_mini.config().data.class_names[1:]]
    second = another_run(run, tmp_path / "run", class_names=names, dataset=str(other))
    evaluate.main([str(run), second, "--data-dir", str(place)])
    printed = capsys.readouterr().out
    assert printed.count("the most frequent class everywhere") == 2
    printed = without_padding(printed)
    assert "| sky | " in printed and "| heaven | " in printed
    # Of the second all pixels are of the first class.
    assert "the most frequent class everywhere | 5 | 100.00 | 100.00 |" in printed


@pytest.mark.any_backend
def test_what_is_drawn_is_refused_before_it_is_measured(run, place, tmp_path):
    other = another_run(run, tmp_path / "other", scale=[24, 32])
    crops = another_run(run, tmp_path / "crops", image_size=[16, 16])
    options = ["--data-dir", str(place), "--figure", str(tmp_path / "both.png")]
    with (
        mock.patch.object(segmenters, "measure", side_effect=AssertionError),
        pytest.raises(SystemExit, match="one figure cannot show them all"),
    ):
        evaluate.main([str(run), other, *options])
    # The size of the crops in training is another matter.
    evaluate.main([str(run), crops, *options])
    assert (tmp_path / "both.png").exists()


@pytest.mark.any_backend
def test_what_cannot_be_measured_is_said(run, place, known, tmp_path):
    model = keras_cbvit.load_model(run / "model.keras")
    model.save(tmp_path / "alone.keras")
    tiny().save(tmp_path / "classifier.keras")
    (tmp_path / "broken").mkdir()
    model.save(tmp_path / "broken" / "model.keras")
    (tmp_path / "broken" / "config.json").write_text("{}")
    alone, classifier = (
        str(tmp_path / "alone.keras"),
        str(tmp_path / "classifier.keras"),
    )
    for arguments, message in (
        ([alone], "is not in a run folder and has no record"),
        ([NAME, classifier], r"but .*classifier\.keras is one for classification"),
        (
            [NAME, "--under", "fgsm"],
            r"under=\('fgsm',\) does not apply to segmentation",
        ),
        (
            [NAME, "--crop-fraction", "0.5"],
            "crop_fraction=0.5 does not apply to segmentation",
        ),
        (
            [str(tmp_path / "broken")],
            r"config\.json was not written by a segmentation run",
        ),
        ([NAME, "--on", "./none"], "The folder .* does not exist"),
        (
            [classifier, "--figure", "a.png"],
            "figure= applies only to segmentation models",
        ),
        ([NAME, "--figure", "a.xyz"], r"figure=a\.xyz must be a \.png file"),
    ):
        with pytest.raises(SystemExit, match=message):
            evaluate.main([*arguments, "--data-dir", str(place)])


@pytest.mark.any_backend
def test_other_classes_are_refused(run, known, place, monkeypatch):
    config = json.loads((run / "config.json").read_text())
    classes = config["experiment"]["data"]["class_names"]
    record = place / "weights" / "catalog.json"
    text = record.read_text()
    renamed = json.loads(text)
    renamed["weights"][0]["class_names"] = classes[::-1]
    record.write_text(json.dumps(renamed))
    try:
        with pytest.raises(
            SystemExit,
            match=f"class_names of the record '{NAME}' differ from those of its file",
        ):
            evaluate.main([NAME, "--data-dir", str(place)])
    finally:
        record.write_text(text)


@pytest.mark.any_backend
def test_a_name_that_does_not_fit_is_refused_before_training(place, tmp_path):
    where = {"data-dir": place, "run-dir": tmp_path / "run", "weights-dir": tmp_path}
    settings = options_of(
        {**NETWORK, **TRAINING, **where, "publish": "toy.camvid_mini"}
    )
    with pytest.raises(
        SystemExit, match="names of UperNets, and no others, start with"
    ):
        train.main(["camvid_mini", *settings])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.any_backend
def test_the_vision_transformer_is_that_of_the_weights(place, tmp_path):
    vit = tiny(depth=5, input_shape=(16, 16, 3))
    rng = np.random.default_rng(0)
    vit.set_weights([rng.normal(0, 0.1, w.shape) for w in vit.weights])
    vit.save(tmp_path / "vit.keras")
    network = {"weights": tmp_path / "vit.keras", "blocks": "0 1 2 4", "channels": 4}
    where = {"data-dir": place, "run-dir": tmp_path / "run"}
    # Without a step that changes anything.
    still = {"learning-rate": 0, "scale": "16 32", "image-size": "16 16"}
    settings = options_of({**network, **TRAINING, **where, **still})
    train.main(["camvid_mini", *settings])
    found = values(keras_cbvit.load_model(tmp_path / "run" / "model.keras"))
    expected = values(vit)
    shared = {name: expected[name] for name in found.keys() & expected.keys()}
    assert any(name.startswith("block_4/mlp") for name in shared)
    assert_same_values({name: found[name] for name in shared}, shared)
    for option, value, message in (
        ("--hidden-dim", "32", "have hidden_dim=16, not 32"),
        ("--patch-size", "8", "have patch_size=4, not 8"),
        (
            "--broadcast",
            "None",
            "are from a model with broadcast='cb'; with broadcast='none' they compute",
        ),
    ):
        with pytest.raises(SystemExit, match=message):
            train.main(["camvid_mini", *settings, option, value])
