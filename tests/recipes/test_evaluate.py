import keras
import numpy as np
import pytest
from PIL import Image

import keras_cbvit
from recipes import evaluate
from recipes.data.pictures import Split
from tests.recipes.small import read_log
from tests.tiny import tiny

SHADES = {"black": 0, "gray": 128, "white": 255}


class Brightness(keras.layers.Layer):
    """One-hot of the nearest of the three shades."""

    def call(self, inputs):
        x = keras.ops.cast(inputs, "float32")
        mean = keras.ops.mean(x, axis=(1, 2, 3))[:, None]
        shades = keras.ops.convert_to_tensor([list(SHADES.values())], "float32")
        return -keras.ops.abs(mean - shades)


@pytest.fixture
def brightness():
    images = keras.Input((8, 8, 3))
    return keras.Model(images, Brightness()(images))


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_every_image_is_counted_once(brightness, batch_size):
    shades = [0, 255, 128, 0, 128]
    images = np.stack([np.full((8, 8, 3), shade, "uint8") for shade in shades])
    split = Split(images, np.array([0, 2, 1, 1, 0]))
    assert evaluate.count_right(brightness, split, batch_size) == (3, 5)


@pytest.fixture
def folder(tmp_path):
    """Five black, three grey and two white pictures in `pictures/test`."""
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

    def publish(class_names):
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
            dataset="none",
            metric="top-1 accuracy",
            value=0,
            measured_on="none",
            recipe="none",
            licence="Apache-2.0",
            overwrite=True,
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
def test_classes_are_matched_by_name(published, folder, capsys, class_names, right):
    name = published(class_names)
    evaluate.main([name, "--dataset", str(folder)])
    assert f"{name}: {right} of 10 test images right" in capsys.readouterr().out


def test_classes_that_the_model_does_not_know_are_refused(published, folder):
    name = published(["black", "gray", "blue"])
    with pytest.raises(SystemExit, match=r"\(black, gray, white\) are not among"):
        evaluate.main([name, "--dataset", str(folder)])


def test_published_weights_are_measured_on_what_their_tag_says(
    finished, published_digits, capsys
):
    evaluate.main([published_digits, "--batch-size", "100"])
    accuracy = read_log(finished.run.run_dir)[-1]["val_accuracy"]
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"vitcb_tests.digits: {accuracy * 360:.0f} of 360 test images right, top-1 "
        f"accuracy {accuracy:.4f} (scikit-learn's digits; {keras.backend.backend()})"
    )


def test_a_tag_with_a_config_is_measured_as_it_says():
    def data(*arguments, **options):
        return evaluate._data(evaluate.Evaluation(*arguments, **options))

    imagenet = data("vitcb_s.imagenet", strict=True)
    assert imagenet.dataset == "imagenet2012"
    assert (imagenet.test_split, imagenet.crop_fraction) == ("validation", 0.875)
    assert imagenet.strict
    assert data("vitcb_s.imagenet", crop_fraction=1.0).crop_fraction == 1
    # Another data set is not the config's.
    flowers = data("vitcb_s.imagenet", dataset="tf_flowers")
    assert (flowers.dataset, flowers.test_split) == ("tf_flowers", "test")
    assert data("vitcb_s.mnist").dataset == "mnist"


def test_a_broken_picture_is_left_out_and_said_to_be(published, folder, capsys):
    name = published(["black", "gray", "white"])
    (folder / "test" / "black" / "0.png").write_bytes(b"not a picture")
    with pytest.warns(UserWarning, match=r"0\.png is not a readable image"):
        evaluate.main([name, "--dataset", str(folder)])
    printed = capsys.readouterr().out
    assert "4 of 9 test images right" in printed
    assert "without 1 that cannot be decoded" in printed
    with pytest.raises(SystemExit, match=r"0\.png is not a readable image"):
        evaluate.main([name, "--dataset", str(folder), "--strict"])


def test_a_file_needs_a_data_set(tmp_path):
    with pytest.raises(SystemExit, match="give --dataset"):
        evaluate.main([str(tmp_path / "model.keras")])


def test_a_file_needs_as_many_classes(tmp_path, folder):
    tiny(classes=4).save(tmp_path / "model.keras")
    with pytest.raises(SystemExit, match=r"has 3 classes, but .*model\.keras 4\."):
        evaluate.main([str(tmp_path / "model.keras"), "--dataset", str(folder)])


def test_unknown_weights_are_said_to_be_unknown():
    with pytest.raises(SystemExit, match=r"no published weights 'vitcb_ti\.nothing'"):
        evaluate.main(["vitcb_ti.nothing"])
