import dataclasses

import numpy as np
import pytest
from PIL import Image

from recipes import evaluate, publish
from recipes.data.sources import load_dataset
from recipes.options.classification import Data
from tests.recipes.published import published_file, records_in
from tests.tiny import fill, tiny

pytestmark = pytest.mark.slow


@pytest.fixture
def checkpoint(tmp_path):
    model = fill(tiny(input_shape=(8, 8, 3), classes=10))
    model.save(tmp_path / "model.keras")
    return tmp_path / "model.keras", model


def arguments(checkpoint, name, folder, *options):
    return [
        str(checkpoint),
        name,
        "--dataset",
        "digits",
        "--trained-on",
        "noise",
        "--recipe",
        "by hand",
        "--weights-dir",
        str(folder),
        *options,
    ]


@pytest.mark.any_backend
def test_a_file_is_measured_and_published(checkpoint, tmp_path):
    path, model = checkpoint
    publish.main(arguments(path, "vitcb_toy.digits", tmp_path / "weights"))
    record = records_in(tmp_path / "weights")["vitcb_toy.digits"]
    test = load_dataset(Data(dataset="digits", image_size=(8, 8))).test
    right = int((model.predict(test.images).argmax(axis=1) == test.labels).sum())
    (measured,) = record.evaluations
    assert measured.metrics["top1"] == right / 360
    assert (measured.task, measured.dataset) == ("classification", "digits")
    assert (measured.split, measured.images) == ("test", 360)
    assert f"{right} of 360 test images correct" in measured.notes
    assert (record.trained_on, record.recipe) == ("noise", "by hand")
    assert record.class_names == list("0123456789")
    assert (
        "by hand"
        in published_file(tmp_path / "weights", "vitcb_toy.digits", ".md").read_text()
    )


@pytest.mark.any_backend
def test_license_and_notes_are_on_the_card(checkpoint, tmp_path):
    options = ("--license", "MIT", "--notes", "Do *not* use it.")
    publish.main(arguments(checkpoint[0], "vitcb_toy.digits", tmp_path, *options))
    card = published_file(tmp_path, "vitcb_toy.digits", ".md").read_text()
    assert "| License | MIT |" in card
    assert "Do *not* use it." in card


@pytest.mark.parametrize("missing", ["--trained-on", "--recipe"])
@pytest.mark.any_backend
def test_what_a_card_must_say_is_required(checkpoint, tmp_path, missing, capsys):
    options = arguments(checkpoint[0], "vitcb_toy.digits", tmp_path)
    place = options.index(missing)
    with pytest.raises(SystemExit):
        publish.main(options[:place] + options[place + 2 :])
    assert missing in capsys.readouterr().err


@pytest.mark.any_backend
def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="does not exist"):
        publish.main(arguments(tmp_path / "no.keras", "vitcb_toy.digits", tmp_path))


@pytest.mark.any_backend
def test_published_weights_are_replaced_only_if_asked(checkpoint, tmp_path):
    path, _ = checkpoint
    publish.main(arguments(path, "vitcb_toy.digits", tmp_path))
    with pytest.raises(SystemExit, match=r"already lists vitcb_toy.digits"):
        publish.main(arguments(path, "vitcb_toy.digits", tmp_path))
    publish.main(arguments(path, "vitcb_toy.digits", tmp_path, "--overwrite"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vitcb_s.digits", "not a registered one"),
        ("digits", "must be architecture.tag"),
    ],
)
@pytest.mark.any_backend
def test_a_name_that_does_not_fit_is_refused(checkpoint, tmp_path, name, message):
    with pytest.raises(SystemExit, match=message):
        publish.main(arguments(checkpoint[0], name, tmp_path / "weights"))
    assert not (tmp_path / "weights").exists()


@pytest.mark.any_backend
def test_a_weights_file_is_refused(checkpoint, tmp_path):
    path = tmp_path / "model.weights.h5"
    checkpoint[1].save_weights(path)
    with pytest.raises(SystemExit, match=r"is not a \.keras file"):
        publish.main(arguments(path, "vitcb_toy.digits", tmp_path))


@pytest.mark.any_backend
def test_another_number_of_classes_is_refused(tmp_path):
    tiny(input_shape=(8, 8, 3), classes=4).save(tmp_path / "model.keras")
    with pytest.raises(SystemExit, match="has 10 classes, but vitcb_toy.digits has 4"):
        publish.main(
            arguments(tmp_path / "model.keras", "vitcb_toy.digits", tmp_path / "w")
        )
    assert not (tmp_path / "w").exists()


@pytest.mark.any_backend
def test_a_folder_and_a_crop_are_measured_again_by_name(
    checkpoint, tmp_path, monkeypatch
):
    path, _ = checkpoint
    random = np.random.default_rng(0)
    for name in "0123456789":
        (tmp_path / "data" / "set" / "val" / name).mkdir(parents=True)
        for i in range(2):
            pixels = random.integers(0, 256, (12, 20, 3), "uint8")
            image = Image.fromarray(pixels)
            image.save(tmp_path / "data" / "set" / "val" / name / f"{i}.png")
    options = arguments(path, "vitcb_toy.mine", tmp_path / "weights")
    options[options.index("digits")] = str(tmp_path / "data" / "set")
    publish.main([*options, "--test-split", "val", "--crop-fraction", "0.5"])
    record = records_in(tmp_path / "weights")["vitcb_toy.mine"]
    (measured,) = record.evaluations
    assert (measured.dataset, measured.split) == ("./set", "val")
    assert record.preprocessing.crop_fraction == 0.5
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(tmp_path / "weights"))
    found = evaluate.Evaluation(("vitcb_toy.mine",), data_dir=tmp_path / "data")
    (row,) = evaluate.evaluate(found)
    assert (row["on"], row["images"]) == ("set, val", 20)
    for metric in ("top1", "top5", "loss", "ece"):
        assert row[metric] == pytest.approx(measured.metrics[metric], abs=1e-5)
    # The crop counts: other pixels give another loss.
    (whole,) = evaluate.evaluate(dataclasses.replace(found, crop_fraction=1.0))
    assert abs(whole["loss"] - row["loss"]) > 1e-3
    with pytest.raises(SystemExit, match="The folder /.*set does not exist"):
        evaluate.main(["vitcb_toy.mine"])
